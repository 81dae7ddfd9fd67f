"""The connection to a bucket: its address, time-outs, credentials, and the sentences for what goes wrong.

Credentials are asked for anew when the store says that they have expired, so a run may outlive them. A store that asks
for fewer requests is waited for. Time-outs count from the last byte that arrived, never from the beginning of a
transfer.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore as Bucket
from obstore.store import from_url

from orchestrator.backends.credentials import ProfileCredentials, uses_profile
from orchestrator.backends.local_store import explain_os_error
from orchestrator.errors import RecipeError, RetainedError, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

S3_SCHEMES = ("s3", "s3a")
REMOTE_SCHEMES = (*S3_SCHEMES, "gs", "az", "abfs", "abfss")
OPTIONS = ("endpoint", "region", "anonymous")  # allowed in the query of an address
# As other tools read them, the most particular first.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL", "S3_ENDPOINT")
ANONYMOUS_VARIABLES = ("AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST")  # a public bucket is read without keys

NO_LIMIT = timedelta(days=30)  # `obstore` has no way to say that a transfer may take as long as it needs
CLIENT = {"timeout": NO_LIMIT, "connect_timeout": timedelta(seconds=5)}
STALL_S = 30.0  # without one byte; of requests that read, and of small ones that write
BULK_STALL_S = 180.0  # of parts that are sent and of copies, which a store answers when it is done
RETRY = {  # of idempotent requests; an unreachable store is reported after about 10 s
    "max_retries": 6,
    "retry_timeout": timedelta(minutes=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}

THROTTLED_S = 300.0  # how long a store that answers "slow down" is asked again; buckets grow within minutes
MAX_THROTTLE_WAIT_S = 20.0  # between two tries

_THROTTLED = re.compile(
    r"SlowDown|Too ?Many ?Requests|RequestLimitExceeded|Throttl|ServerBusy|reduce your request rate|\b429\b"
)
_NOT_A_RANGE = re.compile(r"Requested \S+, got|non-partial response|missing from response")
_EXPIRED = re.compile(r"ExpiredToken|TokenRefreshRequired|InvalidAccessKeyId|InvalidClientTokenId")
_RETAINED = re.compile(
    r"WORM|ObjectLock|object lock|RetentionPolicyNotMet|BlobImmutableDueToPolicy|retention|legal hold"
)
_SKEWED = "RequestTimeTooSkewed"
_NEEDS_CHECKSUM = "is required for Put Object requests with Object Lock"


@dataclass(frozen=True, kw_only=True)
class Clients:
    """The two clients of one connection; they differ in patience only."""

    requests: Bucket
    bulk: Bucket  # for uploads and copies


@dataclass
class Connection:
    """A bucket at an address. Thread-safe; sends no request before a method of `clients` does."""

    url: str
    clients: Clients
    _lock: Any = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, url: str) -> "Connection":
        """Raises: RecipeError: the address holds a password, an unknown option, or is refused by `obstore`."""
        return cls(url, _clients(url))

    def call(self, request: Callable[[Clients], T]) -> T:
        """The result of a request; repeated while the store asks for fewer requests, for at most `THROTTLED_S`, and
        once with new credentials if the store says that they have expired.

        Raises: whatever it raises.
        """
        began_s, tries = time.monotonic(), 0
        while True:
            try:
                return self._call(request)
            except BaseError as error:
                tries += 1
                wait_s = min(2.0**tries, MAX_THROTTLE_WAIT_S) * random.uniform(0.5, 1.0)
                if not _THROTTLED.search(str(error)) or time.monotonic() + wait_s > began_s + THROTTLED_S:
                    raise
                log.warning(
                    "%s: the store asks for fewer requests, waiting %.1f s: %s", self.url, wait_s, first_line(error)
                )
            time.sleep(wait_s)

    def _call(self, request: Callable[[Clients], T]) -> T:
        clients = self.clients
        try:
            return request(clients)
        except BaseError as error:
            if not _is_expired(error):
                raise
            log.warning("%s: the credentials have expired, asking for new ones: %s", self.url, first_line(error))
        with self._lock:
            if self.clients is clients:
                self.clients = _clients(self.url)
        return request(self.clients)


def parse_address(url: str) -> tuple[str, dict[str, str]]:
    """The address without its options, and these. Raises: RecipeError: it holds a password or an unknown option."""
    parts = urlsplit(url.replace("#", "%23"))  # a "#" is part of a name, nothing is cut off behind it
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.netloc or "@" in options.get("endpoint", ""):
        raise RecipeError("store: found a name or password in the address; expected credentials in the environment")
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        where, known = f"store: {parts.scheme}://{parts.netloc}", f"{', '.join(OPTIONS[:-1])} or {OPTIONS[-1]}"
        raise RecipeError(f"{where}: found option '{unknown[0]}', expected {known}")
    return parts._replace(query="").geturl(), options


def endpoint_of(options: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """The server of an S3 address: that of its options, else of the environment; None: Amazon's."""
    named = next((environment[name] for name in ENDPOINT_VARIABLES if environment.get(name)), None)
    found = options.get("endpoint") or named
    return f"http://{found}" if found and "://" not in found and _is_true(environment.get("AWS_ALLOW_HTTP")) else found


def is_anonymous(options: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether requests are sent without keys, as to a public bucket."""
    if "anonymous" in options:
        return options["anonymous"].lower() in ("", "1", "true")
    return any(_is_true(environment.get(name)) for name in ANONYMOUS_VARIABLES)


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("1", "true", "yes", "on")


def _clients(url: str, environment: Mapping[str, str] = os.environ) -> Clients:
    address, options = parse_address(url)
    more: dict[str, Any] = {}
    is_s3, without_keys = urlsplit(url).scheme in S3_SCHEMES, is_anonymous(options, environment)
    endpoint = endpoint_of(options, environment) if is_s3 else options.get("endpoint")
    if is_s3 and uses_profile(environment) and not without_keys:
        more["credential_provider"] = ProfileCredentials()
    settings: dict[str, Any] = {name: value for name, value in options.items() if name != "anonymous"}
    settings |= {"endpoint": endpoint} if endpoint else {}
    settings |= {"skip_signature": "true"} if without_keys else {}

    def client(stall_s: float) -> Bucket:
        allow_http = (endpoint or "").startswith("http://")
        client_options: Any = {**CLIENT, "read_timeout": timedelta(seconds=stall_s), "allow_http": allow_http}
        config: Any = settings
        retry: Any = RETRY
        return from_url(address, config=config, client_options=client_options, retry_config=retry, **more)

    try:
        return Clients(requests=client(STALL_S), bulk=client(BULK_STALL_S))
    except (BaseError, ValueError) as error:
        raise RecipeError(f"store: {url}: {first_line(error)}") from error


@contextmanager
def explained(url: str, key: str, action: str) -> Iterator[None]:
    """Turns what `obstore` and the disk raise into one sentence: where, what was found, what to do.

    Raises:
        RetainedError: the bucket keeps the object for a time.
        StoreError: anything else.
    """
    try:
        yield
    except StoreError as error:
        if str(error).startswith(url):
            raise
        raise type(error)(f"{url}: cannot {action} '{key}': {error}") from error
    except (BaseError, OSError) as error:
        what = f"{url}: cannot {action} '{key}': {first_line(error)}"
        if action == "delete" and _RETAINED.search(str(error)):
            raise RetainedError(
                f"{what}. The bucket keeps it for a time (object lock, retention or legal hold); it stays until then"
            ) from error
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):  # of the local disk
            raise StoreError(explain_os_error(error, f"{url}: cannot {action} '{key}'")) from error
        raise StoreError(f"{what}. {_advice(error)}") from error


def _advice(error: BaseException) -> str:
    text = str(error)
    if _SKEWED in text:
        return f"The clock of this machine {_skew(text)}: set it by NTP (`chronyc makestep`), then try again"
    if _NEEDS_CHECKSUM in text:
        return (
            "The bucket locks objects and wants their checksums: set AWS_CHECKSUM_ALGORITHM=SHA256 in the environment"
        )
    if _THROTTLED.search(text):
        return (
            f"The store still asks for fewer requests after {THROTTLED_S:.0f} s: raise its limits, or let fewer "
            "workers and runs use it at a time"
        )
    if _NOT_A_RANGE.search(text):
        return (
            "The server, or a proxy before it, does not answer requests for a part of an object as S3 does (status 206 "
            "with Content-Range and Content-Length): take another endpoint, or leave the proxy out with NO_PROXY"
        )
    if _is_expired(error):
        return (
            "The credentials have expired and asking anew gave none that are valid; renew them, or use a role or a "
            "profile that renews them itself"
        )
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return "Check the credentials in the environment and their rights on the bucket"
    return "Check the address, the network and that the bucket exists"


def _is_expired(error: BaseException) -> bool:
    return isinstance(error, UnauthenticatedError) or bool(_EXPIRED.search(str(error)))


def _skew(text: str) -> str:
    """By how much this machine's clock differs from the store's, as far as the answer says it."""
    ours = re.search(r"<RequestTime>(\d{8}T\d{6})Z?<", text)
    theirs = re.search(r"<ServerTime>([0-9T:-]{19})", text)
    if not ours or not theirs:
        return "differs from the store's by more than it accepts"
    found = datetime.strptime(ours[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    minutes = (found - datetime.fromisoformat(theirs[1]).replace(tzinfo=UTC)).total_seconds() / 60
    return f"is {abs(minutes):.0f} minutes {'ahead of' if minutes > 0 else 'behind'} the store's"


def first_line(error: BaseException) -> str:
    """The part of obstore's message before its debug dump, without the response body."""
    text = str(error).split("\n\nDebug source", maxsplit=1)[0]
    return " ".join(text.split())[:400]
