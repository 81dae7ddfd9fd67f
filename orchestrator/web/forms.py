"""Forms and JSON bodies of what changes something."""

import json
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from orchestrator.web.page import BadRequestError
from orchestrator.web.sign_in.identify import FORM_COOKIE, DeniedError

MAX_BYTES = 64 * 1024
MAX_FIELDS = 50
FORM_TOKEN = "form_token"  # of the hidden field
API = "/api/"


async def read_fields(request: Request) -> Mapping[str, str]:
    """The fields of a form of ours, or of a JSON object sent to the API.

    Raises:
        DeniedError: the form is not one that this browser got from us.
        BadRequestError: it cannot be read.
    """
    body = await _body(request)
    if request.url.path.startswith(API):  # never sent by a form: the guard has checked its content type
        return _json_fields(body)
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise BadRequestError(f"form: cannot be read: {error}") from None
    known = request.cookies.get(FORM_COOKIE, "")
    if not known or not secrets.compare_digest(known.encode(), fields.pop(FORM_TOKEN, "").encode()):
        raise DeniedError("form: it is not one that this service gave to this browser; reload the page and try again")
    return fields


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BYTES:
            raise BadRequestError(f"body: found more than {MAX_BYTES} bytes")
    return bytes(found)


def _json_fields(body: bytes) -> dict[str, str]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"body: not JSON: {error}") from None
    if not isinstance(found, dict) or not all(is_text(value) for value in found.values()):
        raise BadRequestError("body: expected a JSON object whose values are texts, without NUL and lone surrogates")
    return found


def is_text(value: object) -> bool:
    """Text that a database can hold."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
