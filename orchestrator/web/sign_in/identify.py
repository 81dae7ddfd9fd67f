"""Who a request is from, and whether its host and origin are ours."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import Request

from orchestrator.errors import OrchestratorError, RecipeError
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.tokens import KnownUser, TokenFile
from orchestrator.web.sign_in.users import Role, User, local_user, nobody

TOKEN_COOKIE, FORM_COOKIE = "illume_token", "illume_form"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class DeniedError(OrchestratorError):
    """Somebody asked for what they may not have. The guard records it."""

    status = HTTPStatus.FORBIDDEN


class NotSignedInError(DeniedError):
    """Nobody has signed in."""

    status = HTTPStatus.UNAUTHORIZED


class SignInError(DeniedError):
    """Who asks cannot be told."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class TooOftenError(DeniedError):
    """Asked again too soon."""

    status = HTTPStatus.TOO_MANY_REQUESTS


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_settings(settings: Settings) -> None:
    """Raises: RecipeError: others could reach the service without signing in, or its links would lead nowhere."""
    is_open = not is_loopback(settings.host)
    if is_open and settings.token_file is None and not settings.trusted_proxy:
        raise RecipeError(
            f"--host {settings.host}: others can reach this address, so that people have to sign in; give "
            "--token-file FILE (`illume serve --new-token NAME:ROLE` makes a line of it) or --trusted-proxy ADDRESS"
        )
    if settings.trusted_proxy:
        try:
            ipaddress.ip_network(settings.trusted_proxy, strict=False)
        except ValueError as error:
            raise RecipeError(f"--trusted-proxy {settings.trusted_proxy}: expected an address: {error}") from None
    public = urlsplit(settings.public_url)
    if settings.public_url and (public.scheme not in ("http", "https") or not public.hostname):
        raise RecipeError(f"--public-url {settings.public_url}: expected https://HOST or http://HOST")
    if is_open and not settings.public_url and ipaddress_of(settings.host) is None:
        raise RecipeError(
            f"--host {settings.host}: any name could lead here; give the one that people use: --public-url https://HOST"
        )
    if settings.token_file is not None:
        TokenFile(path=settings.token_file).users()


def ipaddress_of(host: str) -> str | None:
    """A single address; None for those that stand for all of this machine."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    return None if found.is_unspecified else str(found)


@dataclass(kw_only=True)
class Identifier:
    """Tells who a request is from. `local`: who sits at this machine."""

    settings: Settings
    local: Callable[[str], User] = local_user
    tokens: TokenFile | None = field(init=False)

    def __post_init__(self) -> None:
        file = self.settings.token_file
        self.tokens = None if file is None else TokenFile(path=file)

    @property
    def is_needed(self) -> bool:
        """False only on loopback, where nothing else was asked for."""
        return self.tokens is not None or bool(self.settings.trusted_proxy) or not is_loopback(self.settings.host)

    @property
    def is_secure(self) -> bool:
        """Whether people reach the service by TLS."""
        return self.settings.public_url.startswith("https://")

    def known_user(self, token: str) -> KnownUser | None:
        """Whose token it is. Raises: RecipeError: the file of tokens cannot be read."""
        return self.tokens.user_of(token) if self.tokens is not None and token else None

    def user(self, request: Request) -> User:
        """Raises: RecipeError: the file of tokens cannot be read."""
        address = request.client.host if request.client else ""
        if not self.is_needed:
            return self.local(address)
        token = bearer_token(request) or request.cookies.get(TOKEN_COOKIE, "")
        known = self.known_user(token)
        if known is not None:
            return User(name=known.name, role=known.role, address=address, by="token")
        name = request.headers.get(self.settings.user_header, "").strip()
        if name and self._is_proxy(address):
            found = self.tokens.users().get(name) if self.tokens is not None else None
            return User(name=name, role=found.role if found else Role.VIEWER, address=address, by="proxy")
        return nobody(address)

    def _is_proxy(self, address: str) -> bool:
        if not self.settings.trusted_proxy:
            return False
        try:
            network = ipaddress.ip_network(self.settings.trusted_proxy, strict=False)
            return ipaddress.ip_address(address) in network
        except ValueError:
            return False

    def check_host(self, request: Request) -> None:
        """Raises: DeniedError: the request names another host, as one of a page does whose name was bound to us."""
        host = request.headers.get("host", "").lower()
        if host not in self._hosts():
            raise DeniedError(f"Host: found {host!r}, expected {' or '.join(sorted(self._hosts()))}; see --public-url")

    def check_origin(self, request: Request) -> None:
        """Of what changes something. Raises: DeniedError: it comes from a page of another origin."""
        if request.method in SAFE_METHODS:
            return
        origin = request.headers.get("origin", "").lower()
        if origin and _netloc(origin) not in self._hosts():
            raise DeniedError(f"Origin: found {origin[:80]!r}, expected this service")
        if not origin and request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise DeniedError("Sec-Fetch-Site: a page of another origin may not change anything here")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        if request.url.path.startswith("/api/") and media_type != "application/json":
            raise DeniedError(f"Content-Type: found {media_type!r}, expected 'application/json'")

    def _hosts(self) -> set[str]:
        port = self.settings.port
        names = {f"{name}:{port}" for name in LOOPBACK_NAMES} if is_loopback(self.settings.host) else set()
        own = ipaddress_of(self.settings.host)
        names |= {f"[{own}]:{port}" if ":" in own else f"{own}:{port}"} if own else set()
        return names | ({urlsplit(self.settings.public_url).netloc.lower()} if self.settings.public_url else set())


def _netloc(address: str) -> str:
    """Host and port of an address; "" of what is none."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""


def bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def require_role(user: User, role: Role) -> None:
    """Raises: DeniedError: the user may not do it."""
    if user.role < role:
        raise DeniedError(f"role: {user.name} is {user.role.name.lower()}, this needs {role.name.lower()}")
