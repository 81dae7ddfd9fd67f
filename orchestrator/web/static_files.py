"""Files below `static/`, under addresses with a digest of their content."""

import mimetypes

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from orchestrator.web.page import NotFoundError
from orchestrator.web.rendering import STATIC, static_address

FOR_EVER = "public, max-age=31536000, immutable"


def static_file(request: Request) -> Response:
    """Raises: NotFoundError: no such file, or it has another content now."""
    name = request.path_params["name"]
    try:
        path = (STATIC / name).resolve()
        is_there = path.is_relative_to(STATIC.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        raise NotFoundError(f"static file {name[:80]!r}: not found")
    if request.url.path != static_address(name):
        raise NotFoundError(f"static file {name!r}: is {static_address(name)} now; reload the page")
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=media_type, headers={"Cache-Control": FOR_EVER})
