"""Asking, following and downloading questions."""

import asyncio
import json
from collections.abc import AsyncGenerator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.web.addresses import link
from orchestrator.web.downloads import attachment
from orchestrator.web.forms import read_fields
from orchestrator.web.open_streams import event_stream
from orchestrator.web.page import NotFoundError
from orchestrator.web.questions.asking import ask
from orchestrator.web.questions.kinds import arguments_of
from orchestrator.web.questions.records import OUT, PROGRESS
from orchestrator.web.service import Service
from orchestrator.web.sign_in.identify import require_role
from orchestrator.web.sign_in.users import Role, User
from orchestrator.web.views.questions import find_question

POLL_S = 0.5


def question_routes() -> list[BaseRoute]:
    return [
        Route("/questions", ask_by_form, methods=["POST"], name="ask"),
        Route("/api/v1/questions", ask_by_api, methods=["POST"], name="ask JSON"),
        Route("/questions/{question}/answer", answer, name="answer"),
        Route("/questions/{question}/stream", follow, name="question stream"),
    ]


async def ask_by_form(request: Request) -> Response:
    question_id, _is_new = await _ask(request)
    return RedirectResponse(link("questions", question_id), status_code=303)


async def ask_by_api(request: Request) -> Response:
    question_id, is_new = await _ask(request)
    found = {"format": 1, "id": question_id, "is_new": is_new, "link": link("questions", question_id)}
    return JSONResponse(found, status_code=202)


def answer(request: Request) -> Response:
    """The whole answer, as text. Raises: NotFoundError."""
    found = find_question(request.app.state.service, request.path_params["question"])
    if not (found.folder / OUT).exists():
        raise NotFoundError(f"question {found.question.id}: nothing was answered (yet)")
    headers = {"Content-Disposition": attachment(f"{found.question.id}.txt")}
    return FileResponse(found.folder / OUT, media_type="text/plain; charset=utf-8", headers=headers)


async def follow(request: Request) -> Response:
    """Tells a page that there is more. Raises: NotFoundError."""
    service: Service = request.app.state.service
    question_id = request.path_params["question"]
    await run_in_threadpool(find_question, service, question_id)
    return event_stream(request, _changes(service, question_id))


async def _ask(request: Request) -> tuple[str, bool]:
    """Raises: BadRequestError, DeniedError."""
    user: User = request.state.user
    require_role(user, Role.VIEWER)
    fields = dict(await read_fields(request))
    kind = fields.pop("kind", "")
    arguments = await run_in_threadpool(arguments_of, kind, fields)
    settings = request.app.state.service.settings
    return await run_in_threadpool(ask, settings.folder, kind, arguments, settings.arguments, asked_by=user.name)


async def _changes(service: Service, question_id: str) -> AsyncGenerator[str, None]:
    seen = -1
    while not service.stopping.is_set():
        try:
            found = await run_in_threadpool(find_question, service, question_id)
        except NotFoundError:
            return
        sizes = [path.stat().st_size for name in (OUT, PROGRESS) if (path := found.folder / name).exists()]
        if sum(sizes) != seen or found.state != "running":
            seen = sum(sizes)
            yield f"id: {seen}\ndata: {json.dumps({'question': question_id, 'state': found.state})}\n\n"
        if found.state != "running":
            return
        await asyncio.sleep(POLL_S)
