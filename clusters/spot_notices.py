"""The notices of spot machines: each cloud's metadata service says, on the machine itself, when it will be taken.

Sources: AWS EC2, "Spot Instance interruption notices" (two minutes); Google Compute Engine, "Spot VMs: preemption
process" (30 s); Azure, "Scheduled Events for Linux VMs", API version 2020-07-01 (at least 30 s).
"""

import datetime as dt
import email.utils
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.errors import PrecheckError

TIMEOUT_S = 2.0
LINK_LOCAL = "http://169.254.169.254"
GCP_ADDRESS = "http://metadata.google.internal"
AWS_TOKEN_S = 21_600
SHORTEST_NOTICE_S = 30.0  # of Google and Azure, which name no later moment
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the services are on the machine itself

Cloud = Literal["aws", "gcp", "azure"]


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A machine will be taken."""

    text: str
    within_s: float  # from now


class MetadataError(Exception):
    """The metadata service did not answer, or not as its cloud says."""


class NoticeSource(Protocol):
    """Asks one cloud's metadata service. `ask` raises MetadataError and may be repeated."""

    cloud: Cloud

    def ask(self) -> Notice | None: ...


@dataclass(kw_only=True)
class AwsNotices:
    """EC2, with the session tokens of IMDSv2. In pods the instance's hop limit must be 2."""

    address: str = LINK_LOCAL
    cloud: Cloud = "aws"
    _token: str = field(default="", repr=False)

    def ask(self) -> Notice | None:
        try:
            return self._ask()
        except MetadataError:
            self._token = ""  # it may have expired: the next question takes a new one
            raise

    def _ask(self) -> Notice | None:
        if not self._token:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_S)}
            self._token = _text(_answer(f"{self.address}/latest/api/token", headers, method="PUT")).strip()
        body = _answer(
            f"{self.address}/latest/meta-data/spot/instance-action",
            {"X-aws-ec2-metadata-token": self._token},
            absent=True,
        )
        if body is None:
            return None
        found = _mapping(body)
        try:
            moment = dt.datetime.fromisoformat(str(found["time"]).replace("Z", "+00:00"))
        except (KeyError, ValueError) as error:
            raise MetadataError(f"{self.address}: found {found}, expected action and time") from error
        return Notice(text=f"AWS: {found.get('action')} at {moment.isoformat()}", within_s=_until(moment))


@dataclass(kw_only=True)
class GcpNotices:
    """Compute Engine."""

    address: str = GCP_ADDRESS
    cloud: Cloud = "gcp"

    def ask(self) -> Notice | None:
        answer = _text(
            _answer(f"{self.address}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        ).strip()
        if answer not in ("TRUE", "FALSE"):
            raise MetadataError(f"{self.address}: found {answer[:80]!r}, expected TRUE or FALSE")
        return Notice(text="Google Cloud: preempted", within_s=SHORTEST_NOTICE_S) if answer == "TRUE" else None


@dataclass(kw_only=True)
class AzureNotices:
    """Azure's scheduled events. The first question may take two minutes to be answered, later ones do not."""

    address: str = LINK_LOCAL
    cloud: Cloud = "azure"

    def ask(self) -> Notice | None:
        headers = {"Metadata": "true"}
        base = f"{self.address}/metadata"
        body = _answer(f"{base}/scheduledevents?api-version=2020-07-01", headers)
        events = _mapping(body or b"{}").get("Events")
        if not isinstance(events, list):
            raise MetadataError(f"{self.address}: found no list of Events")
        wanted = [event for event in events if isinstance(event, Mapping) and event.get("EventType") == "Preempt"]
        if not wanted:
            return None
        name = _text(_answer(f"{base}/instance/compute/name?api-version=2021-02-01&format=text", headers)).strip()
        for event in wanted:  # of all machines of a scale set
            if name in (event.get("Resources") or ()):
                return Notice(text=f"Azure: preempted, event {event.get('EventId')}", within_s=_azure_wait(event))
        return None


def _azure_wait(event: Mapping[str, object]) -> float:
    """`NotBefore` is RFC 1123, or empty once the event has begun."""
    try:
        return _until(email.utils.parsedate_to_datetime(str(event.get("NotBefore") or "")))
    except ValueError:
        return SHORTEST_NOTICE_S if event.get("EventStatus") != "Started" else 0.0


def notice_source(cloud: str, address: str = "") -> NoticeSource:
    """The metadata service of a cloud; `auto`: of the one whose service answers here.

    Raises: PrecheckError: no such cloud, or no metadata service answers.
    """
    sources: dict[str, NoticeSource] = {
        "aws": AwsNotices(address=address or LINK_LOCAL),
        "gcp": GcpNotices(address=address or GCP_ADDRESS),
        "azure": AzureNotices(address=address or LINK_LOCAL),
    }
    if cloud != "auto":
        try:
            return sources[cloud]
        except KeyError:
            raise PrecheckError(f"--watch: found {cloud!r}, expected auto, {', '.join(sources)}") from None
    tried = []
    for source in sources.values():
        try:
            source.ask()
        except MetadataError as error:
            tried.append(f"{source.cloud}: {error}")
        else:
            return source
    raise PrecheckError(f"--watch: no metadata service of a cloud answers here ({'; '.join(tried)}); name the cloud")


def wait_for_notice(source: NoticeSource, *, interval_s: float, report_failure: "Report") -> Notice:
    """Ask until there is a notice. A service that does not answer is reported once, and asked again."""
    failed = ""
    while True:
        try:
            notice = source.ask()
        except MetadataError as error:
            if str(error) != failed:
                report_failure(str(error))
            failed, notice = str(error), None
        else:
            failed = ""
        if notice is not None:
            return notice
        time.sleep(interval_s)


class Report(Protocol):
    def __call__(self, text: str, /) -> None: ...


def _answer(url: str, headers: Mapping[str, str], *, method: str = "GET", absent: bool = False) -> bytes | None:
    """The body; None: not found, where that is an answer."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with _NO_PROXY.open(request, timeout=TIMEOUT_S) as response:
            body: bytes = response.read(1_000_000)
            return body
    except urllib.error.HTTPError as error:
        if absent and error.code == 404:
            return None
        raise MetadataError(f"{url}: HTTP status {error.code}") from error
    except (OSError, ValueError) as error:
        raise MetadataError(f"{url}: {error}") from error


def _text(body: bytes | None) -> str:
    return (body or b"").decode(errors="replace")


def _mapping(body: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise MetadataError(f"found {body[:80]!r}, expected JSON") from error
    if not isinstance(found, Mapping):
        raise MetadataError(f"found {body[:80]!r}, expected a JSON object")
    return found


def _until(moment: dt.datetime) -> float:
    """Seconds from now. Raises: MetadataError: a moment without its zone."""
    if moment.tzinfo is None:
        raise MetadataError(f"found {moment}, expected a time with its zone")
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
