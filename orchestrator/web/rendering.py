"""Renders templates: everything is escaped; a part of a page is a block of its template."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from orchestrator.commands.shared.formatting import bytes_text, duration_text, short
from orchestrator.errors import OrchestratorError
from orchestrator.reports.run_summary import number_text
from orchestrator.times import short_time
from orchestrator.web.addresses import link
from orchestrator.web.drawings.table import DRAWINGS
from orchestrator.web.page import PART, NotFoundError
from orchestrator.web.sign_in.users import User

HERE = Path(__file__).parent
STATIC = HERE / "static"
MACROS = {"ui": "elements.html", "act": "pieces.html"}  # a block that is rendered alone imports nothing
MAIN = "main"  # the block that htmx asks for
# Sequences of terminals (ECMA-48: colours, titles) and single control characters, which logs and messages of programs
# hold. They are taken out of whole pages, so none gets through a drawing; a sequence never reaches over a tag.
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b<>\n]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render(request: Request, template: str, model: Any, *, status: int = 200) -> HTMLResponse:
    """A page, or, asked by htmx or with `?part=NAME`, one block of it.

    Raises: NotFoundError: the template has no such block.
    """
    found = environment().get_template(template)
    problem = _problem(request) if status < 500 else ""  # else the page itself is about one
    values = {"model": model, "problem": problem, **_context(request)}
    part = request.query_params.get(PART) or (MAIN if "HX-Request" in request.headers else "")
    headers = {"Cache-Control": "no-store", "Vary": "HX-Request"}
    if part and status >= 400:
        part = MAIN  # an error has no other part
    if not part:
        return HTMLResponse(_CONTROLS.sub("", found.render(values)), status_code=status, headers=headers)
    if part not in found.blocks:
        raise NotFoundError(f"part {part!r}: not one of this page; it has {', '.join(sorted(found.blocks))}")
    text = "".join(found.blocks[part](found.new_context(values)))
    return HTMLResponse(_CONTROLS.sub("", text), status_code=status, headers=headers)


@lru_cache
def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        auto_reload=False,  # a package that is replaced under a running service must not change half of it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {**DRAWINGS, "static": static_address, "link": link}
    found.filters |= {
        "ago": lambda at: duration_text(max(0.0, time.time() - at)),
        "bytes": bytes_text,
        "clock": lambda at: time.strftime("%H:%M:%S", time.gmtime(at)),
        "count": number_text,  # with separators: a page has room for the whole number
        "duration": duration_text,
        "number": number_text,
        "short": short,
        "time": short_time,
    }
    for name, file in MACROS.items():
        found.globals[name] = found.get_template(file).module
    return found


def provide(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Let templates call these by their names."""
    environment().globals |= functions


@lru_cache
def static_address(name: str) -> str:
    """The address of a file below `static/`; it changes with the content, so that it can be kept for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{digest}/{name}"


class _Asked(dict[str, str]):
    """What follows `?` in the address; what was not given is empty."""

    def __missing__(self, _name: str) -> str:
        return ""


def _context(request: Request) -> Mapping[str, Any]:
    user: User = request.state.user
    return {
        "address": request.url.path,
        "form_token": request.state.form_token,
        "now": time.time(),
        "query": _Asked(request.query_params),
        "user": user,
    }


def _problem(request: Request) -> str:
    """Why the store cannot be used: it stands above every page, and the page goes on without it."""
    try:
        return str(request.app.state.service.store_problem())
    except OrchestratorError:  # then the page is about that
        return ""
