"""The application: the table of routes, and what surrounds each request."""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.errors import OrchestratorError
from orchestrator.web.actions import ACTIONS, Action, Done
from orchestrator.web.downloads import download_routes
from orchestrator.web.forms import read_fields
from orchestrator.web.guard import Guard
from orchestrator.web.log_stream import log_stream
from orchestrator.web.metrics import Counts, metrics
from orchestrator.web.open_streams import OpenStreams
from orchestrator.web.openapi import API, FILE
from orchestrator.web.page import PART, Page
from orchestrator.web.pages.table import PAGES
from orchestrator.web.pictures import PICTURES
from orchestrator.web.problems import problem_response
from orchestrator.web.question_routes import question_routes
from orchestrator.web.rendering import provide, render
from orchestrator.web.sample_images import image_routes
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.denials import Denials
from orchestrator.web.sign_in.identify import Identifier, TooOftenError, require_role
from orchestrator.web.sign_in.limits import RateLimit
from orchestrator.web.sign_in.users import User
from orchestrator.web.sign_in_routes import sign_in_routes
from orchestrator.web.static_files import static_file
from orchestrator.web.stream import Feed, stream
from orchestrator.web.views.plain import view_to_json

log = logging.getLogger(__name__)

SEARCHES = ("q", "actor", "owner")  # what makes a question a search


def create_app(settings: Settings) -> Starlette:
    """The application of `illume serve`. Nothing is opened before the first request."""
    provide(PICTURES)
    service = Service(settings=settings)
    counts, denials, identifier = Counts(), Denials(folder=settings.folder), Identifier(settings=settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = Starlette(
        routes=routes(),
        middleware=[Middleware(Guard, counts=counts, identifier=identifier, denials=denials)],
        exception_handlers={OrchestratorError: problem_response, 404: problem_response, 405: problem_response,
                            500: problem_response},
        lifespan=lifespan,
    )  # fmt: skip
    app.state.service, app.state.counts, app.state.feed = service, counts, Feed(service=service)
    app.state.identifier, app.state.streams = identifier, OpenStreams()
    app.state.sign_in_limit, app.state.search_limit = RateLimit(burst=10, per_s=0.2), RateLimit(burst=30, per_s=5.0)
    return app


def routes() -> Sequence[BaseRoute]:
    """All routes. What stands first is found first."""
    of_pages = (route for page in PAGES for route in page_routes(page))
    of_actions = (route for action in ACTIONS for route in action_routes(action))
    of_files = [*download_routes(), *image_routes()]
    return [*_own_routes(), *sign_in_routes(), *of_files, *question_routes(), *of_actions, *of_pages]


def action_routes(action: Action) -> Sequence[BaseRoute]:
    """An action for forms, which lead to the page that shows it, and for programs."""

    async def carry_out(request: Request) -> Done:
        user: User = request.state.user
        require_role(user, action.role)
        fields = await read_fields(request)
        path = {name: str(value) for name, value in request.path_params.items()}
        return await run_in_threadpool(action.run, request.app.state.service, user, path, fields)

    async def form(request: Request) -> Response:
        return RedirectResponse((await carry_out(request)).link, status_code=303)

    async def as_json(request: Request) -> Response:
        return JSONResponse(view_to_json(await carry_out(request)))

    return [
        Route(action.path, form, methods=["POST"], name=action.name),
        Route(f"{API}{action.path}", as_json, methods=["POST"], name=f"{action.name} JSON"),
    ]


def page_routes(page: Page[Any]) -> Sequence[BaseRoute]:
    """A page as HTML and as JSON."""

    def load(request: Request) -> Any:
        user: User = request.state.user
        require_role(user, page.role)
        asked = {name: value for name, value in request.query_params.items() if name != PART}
        check_rate(request, asked)
        query = page.parse(request.path_params, asked)
        return page.load(request.app.state.service, query)

    def html(request: Request) -> Response:
        return render(request, f"{page.name}.html", load(request))

    def as_json(request: Request) -> Response:
        return JSONResponse(view_to_json(load(request)), headers={"Cache-Control": "no-store"})

    return [Route(page.path, html, name=page.name), Route(f"{API}{page.path}", as_json, name=f"{page.name} JSON")]


def check_rate(request: Request, asked: Mapping[str, str]) -> None:
    """Raises: TooOftenError: somebody searches faster than people do."""
    if not any(asked.get(name) for name in SEARCHES):
        return
    user: User = request.state.user
    wait_s = request.app.state.search_limit.wait_s(user.name or user.address)
    if wait_s:
        raise TooOftenError(f"search: too many at once by {user.name}; try again in {wait_s:.1f} s")


def _own_routes() -> Sequence[BaseRoute]:
    return [
        Route("/", lambda _request: RedirectResponse("/runs"), name="home"),
        Route("/healthz", healthz, name="healthz"),
        Route("/metrics", metrics, name="metrics"),
        Route(f"{API}/openapi.json", lambda _request: FileResponse(FILE), name="description"),
        Route("/events/stream", stream, name="stream"),
        Route("/runs/{run}/logs/{file}/stream", log_stream, name="log stream"),
        Route("/static/{digest}/{name:path}", static_file, name="static"),
    ]


def healthz(request: Request) -> Response:
    """200 while the database answers and all background work goes on, else 503; one line for each, with the reason."""
    service: Service = request.app.state.service
    try:
        service.workspace().database.read(lambda _connection: None)
        database = "ok"
    except OrchestratorError as error:
        database = str(error)
    work = service.background()
    is_well = database == "ok" and all(found.is_well for found in work)
    lines = [database, *(f"{found.name}: {found.text}" for found in work)]
    return PlainTextResponse("".join(f"{line}\n" for line in lines), status_code=200 if is_well else 503)
