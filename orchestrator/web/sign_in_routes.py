"""Signing in with a token, and out."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.web.addresses import link
from orchestrator.web.forms import read_fields
from orchestrator.web.guard import cookie
from orchestrator.web.rendering import render
from orchestrator.web.sign_in.identify import TOKEN_COOKIE, DeniedError, Identifier, TooOftenError
from orchestrator.web.sign_in.limits import RateLimit
from orchestrator.web.views.sign_in import SignInView

SIGNED_IN_S = 12 * 3600  # then the browser forgets the token
WRONG = "this token is nobody's: it was taken out of the file of tokens, or it is another service's"


def sign_in_routes() -> list[BaseRoute]:
    return [
        Route("/sign-in", sign_in_page, methods=["GET"], name="sign-in"),
        Route("/sign-in", sign_in, methods=["POST"], name="sign in"),
        Route("/sign-out", sign_out, methods=["POST"], name="sign out"),
    ]


def sign_in_page(request: Request) -> Response:
    return render(request, "sign_in.html", _view(request, request.query_params.get("next", "")))


async def sign_in(request: Request) -> Response:
    """Raises: DeniedError: the token is nobody's. TooOftenError."""
    identifier: Identifier = request.app.state.identifier
    limit: RateLimit = request.app.state.sign_in_limit
    address = request.client.host if request.client else ""
    wait_s = limit.wait_s(address)
    if wait_s:
        raise TooOftenError(f"sign-in: too many tries from {address}; try again in {wait_s:.0f} s")
    fields = await read_fields(request)
    known = await run_in_threadpool(identifier.known_user, fields.get("token", "").strip())
    if known is None:
        raise DeniedError(f"token: {WRONG}")
    response = RedirectResponse(safe_target(fields.get("next", "")), status_code=303)
    header = cookie(TOKEN_COOKIE, fields["token"].strip(), is_secure=identifier.is_secure, max_age_s=SIGNED_IN_S)
    response.headers.append("Set-Cookie", header)
    return response


async def sign_out(request: Request) -> Response:
    await read_fields(request)
    response = RedirectResponse(link("sign-in"), status_code=303)
    identifier: Identifier = request.app.state.identifier
    response.headers.append("Set-Cookie", cookie(TOKEN_COOKIE, "", is_secure=identifier.is_secure, max_age_s=0))
    return response


def safe_target(target: str) -> str:
    """An address of this service; anything else leads to the start."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_ours else "/"


def _view(request: Request, target: str) -> SignInView:
    identifier: Identifier = request.app.state.identifier
    return SignInView(next=safe_target(target), takes_tokens=identifier.tokens is not None)
