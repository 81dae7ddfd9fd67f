"""What every request passes: who asks, from which host and origin; the headers of every response; counts."""

import logging
import secrets
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import OrchestratorError, RecipeError
from orchestrator.web.addresses import link
from orchestrator.web.metrics import Counts
from orchestrator.web.problems import problem_response
from orchestrator.web.sign_in.denials import Denial, Denials
from orchestrator.web.sign_in.identify import (
    FORM_COOKIE,
    Identifier,
    NotSignedInError,
    SignInError,
)
from orchestrator.web.sign_in.users import Role, User, nobody

log = logging.getLogger(__name__)

OPEN = ("/healthz", "/sign-in", "/static/")  # without signing in
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass
class Guard:
    """ASGI middleware."""

    app: ASGIApp
    counts: Counts
    identifier: Identifier
    denials: Denials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, began, status = Request(scope), time.monotonic(), 500
        form_token = request.cookies.get(FORM_COOKIE, "")
        is_new = not form_token
        form_token = form_token or secrets.token_urlsafe(16)
        request.state.user, request.state.form_token = nobody(""), form_token

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, form_token if is_new else "")
            await send(message)

        try:
            response = await self._check(request)
            if response is None:
                await self.app(scope, receive, send_guarded)
            else:
                await response(scope, receive, send_guarded)
        finally:
            route = _route_of(scope)
            if not route.endswith("stream"):  # lasts as long as its page is open
                self.counts.answered(route, status, time.monotonic() - began)
            denied = scope["state"].get("denied")
            if denied is not None:
                await run_in_threadpool(self._record, request, str(denied))

    async def _check(self, request: Request) -> Response | None:
        """None: the request may go on."""
        path = request.url.path
        if path == "/healthz":  # asked by address, by what watches over containers
            return None
        try:
            self.identifier.check_host(request)
            user = await run_in_threadpool(self._user, request)
            request.state.user = user
            self.identifier.check_origin(request)
            is_open = path in OPEN or path.startswith("/static/")
            if user.role is Role.NOBODY and not is_open:
                raise NotSignedInError("sign in first: with the header `Authorization: Bearer TOKEN`, or at /sign-in")
        except NotSignedInError as error:
            if "Authorization" in request.headers or request.url.path.startswith(("/api/", "/metrics")):
                return await self._denied(request, error)
            target = path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(link("sign-in", next=target), status_code=303)
        except OrchestratorError as error:
            return await self._denied(request, error)
        return None

    def _user(self, request: Request) -> User:
        """Raises: SignInError: nobody can be told from anybody now; why is in the log, not for strangers."""
        try:
            return self.identifier.user(request)
        except RecipeError as error:
            log.error("signing in: %s", error)
            raise SignInError("signing in does not work now; the log of this service says why") from error

    async def _denied(self, request: Request, error: OrchestratorError) -> Response:
        return await run_in_threadpool(problem_response, request, error)

    def _record(self, request: Request, reason: str) -> None:
        user = request.state.user
        address = request.client.host if request.client else ""
        self.counts.refused(_kind_of(reason))
        asked = f"{request.method} {request.url.path}"
        self.denials.record(Denial(time=time.time(), user=user.name, address=address, request=asked, reason=reason))

    def _add_headers(self, message: MutableMapping[str, Any], form_token: str) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        is_secure = self.identifier.is_secure
        if is_secure:
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        if form_token:
            headers.append("Set-Cookie", cookie(FORM_COOKIE, form_token, is_secure=is_secure))


def cookie(name: str, value: str, *, is_secure: bool, max_age_s: int | None = None) -> str:
    """A cookie that scripts cannot read and that no other site's page sends."""
    age = f"; Max-Age={max_age_s}" if max_age_s is not None else ""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if is_secure else ''}{age}"


def _kind_of(reason: str) -> str:
    """The first word, of which there are few: a label of a metric."""
    return reason.partition(":")[0].partition(" ")[0].lower()


def _route_of(scope: Scope) -> str:
    """The name of the route: addresses hold what people choose, and there would be no end of them."""
    route = scope.get("route")
    return str(route.name) if route is not None else "none"
