"""The application: the table of routes, and what surrounds each request."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.errors import OrchestratorError
from orchestrator.web.guard import Guard
from orchestrator.web.metrics import Counts, metrics
from orchestrator.web.page import PART, Page
from orchestrator.web.pages.table import PAGES
from orchestrator.web.pictures import PICTURES
from orchestrator.web.problems import problem_response
from orchestrator.web.rendering import provide, render
from orchestrator.web.service import Service
from orchestrator.web.settings import Settings
from orchestrator.web.static_files import static_file
from orchestrator.web.stream import Feed, stream
from orchestrator.web.views.plain import view_to_json

log = logging.getLogger(__name__)

API = "/api/v1"


def create_app(settings: Settings) -> Starlette:
    """The application of `illume serve`. Nothing is opened before the first request."""
    provide(PICTURES)
    service = Service(settings=settings)
    counts = Counts()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = Starlette(
        routes=[*_own_routes(), *(route for page in PAGES for route in page_routes(page))],
        middleware=[Middleware(Guard, settings=settings, counts=counts)],
        exception_handlers={OrchestratorError: problem_response, 404: problem_response, 405: problem_response,
                            500: problem_response},
        lifespan=lifespan,
    )  # fmt: skip
    app.state.service, app.state.counts, app.state.feed = service, counts, Feed(service=service)
    return app


def page_routes(page: Page[Any]) -> Sequence[BaseRoute]:
    """A page as HTML and as JSON."""

    def load(request: Request) -> Any:
        asked = {name: value for name, value in request.query_params.items() if name != PART}
        query = page.parse(request.path_params, asked)
        return page.load(request.app.state.service, query)

    def html(request: Request) -> Response:
        return render(request, f"{page.name}.html", load(request))

    def as_json(request: Request) -> Response:
        return JSONResponse(view_to_json(load(request)), headers={"Cache-Control": "no-store"})

    return [Route(page.path, html, name=page.name), Route(f"{API}{page.path}", as_json, name=f"{page.name} JSON")]


def _own_routes() -> Sequence[BaseRoute]:
    return [
        Route("/", lambda _request: RedirectResponse("/runs"), name="home"),
        Route("/healthz", healthz, name="healthz"),
        Route("/metrics", metrics, name="metrics"),
        Route("/events/stream", stream, name="stream"),
        Route("/static/{digest}/{name:path}", static_file, name="static"),
    ]


def healthz(request: Request) -> Response:
    """200 while the database answers, else 503 with the reason."""
    service: Service = request.app.state.service
    try:
        service.workspace().database.read(lambda _connection: None)
    except OrchestratorError as error:
        return PlainTextResponse(f"{error}\n", status_code=503)
    return PlainTextResponse("ok\n")
