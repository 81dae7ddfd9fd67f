"""The records of the queue: write-once in the store, `queue/<what>/<subject>/<number>.json`.

Rule: a record is in the store before a row of the database says so, and the newest record about a subject counts. A
subject has one record for each change of it; two who change it at once get two numbers.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote

from orchestrator.actor import current_actor
from orchestrator.errors import RecipeError
from orchestrator.history.actors import ActorRecord, actor_record
from orchestrator.store.store import Store, record_bytes

QUEUE = "queue"
THIS_MACHINE = "machine"  # the pool of runs on the machine of their driver
NUMBER_DIGITS = 6  # so that keys sort by number

What = Literal["submissions", "priorities", "approvals", "schedules", "firings", "budgets", "notices"]
Overlap = Literal["skip", "queue", "cancel"]

A_PERSON = "a person's approval"  # how what a stage waits for begins
MAX_PRIORITY = 1000  # and the least is -1000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be spent; None: no limit."""

    gpu_hours: float | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        if any(limit is not None and not limit > 0 for limit in (self.gpu_hours, self.money)):
            raise ValueError("a budget has to be above 0")

    @property
    def is_set(self) -> bool:
        return self.gpu_hours is not None or self.money is not None


@dataclass(frozen=True, kw_only=True)
class PoolRecord:
    """The pool that a run shares; amounts of 0 and None are not known before the cluster is."""

    name: str
    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What all records have."""

    format: Literal[1] = 1
    at: str  # ISO 8601, UTC
    by: ActorRecord = field(default_factory=lambda: actor_record(current_actor()))


@dataclass(frozen=True, kw_only=True)
class StageNeed:
    """What one stage of a run takes of a pool."""

    stage_id: str
    fingerprint: str
    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0
    price_per_gpu_hour: float | None = None  # when it was submitted; None: unknown


@dataclass(frozen=True, kw_only=True)
class Submission(Record):
    """A run that is to be carried out; the subject is its id. Its plan is in the store under its digest."""

    run_id: str
    recipe: str
    plan_digest: str
    person: str  # whose fair share and budget it is
    priority: int = 0
    after: tuple[str, ...] = ()  # runs that have to succeed first
    cluster: str = ""  # an address, or the text of a profile; "": the machine of the server
    pool: PoolRecord | None = None  # None: the cluster's own queue decides
    stages: tuple[StageNeed, ...] = ()  # that are to run, upstream first
    estimate_s: float | None = None  # of all of them, from earlier runs
    limits: Limits = Limits()
    schedule: str = ""  # that made it


def bounded(priority: int) -> int:
    """As it counts, and as a database holds it, whatever a record says."""
    return max(-MAX_PRIORITY, min(MAX_PRIORITY, priority))


@dataclass(frozen=True, kw_only=True)
class PriorityChange(Record):
    """A new priority of a run, the subject."""

    priority: int


@dataclass(frozen=True, kw_only=True)
class Approval(Record):
    """A person's word that a stage may start; the subject is RUN:STAGE."""

    note: str


@dataclass(frozen=True, kw_only=True)
class Budget(Record):
    """What may be spent in a calendar month (UTC); the subject is `user:NAME` or `all`. No limits: it is lifted."""

    limits: Limits
    currency: str = ""


@dataclass(frozen=True, kw_only=True)
class Schedule(Record):
    """When a recipe is submitted; the subject is the schedule's name. One of `cron`, `files` and `pins` is set."""

    recipe: str  # text of the file
    file: str
    overrides: tuple[str, ...] = ()
    cron: str = ""  # five fields
    zone: str = "UTC"
    files: str = ""  # a folder: fires when files in it are new or changed, and rest
    pins: str = ""  # a kind of stage: fires when an artifact of it is pinned
    overlap: Overlap = "skip"
    priority: int = 0
    person: str = ""
    cluster: str = ""
    pool: PoolRecord | None = None
    limits: Limits = Limits()
    prices: dict[str, float] = field(default_factory=dict)  # of an accelerator hour, by stage, when it was added
    is_paused: bool = False
    is_removed: bool = False


@dataclass(frozen=True, kw_only=True)
class Firing(Record):
    """One moment at which a schedule, the subject, was due; written before its run is submitted."""

    due: str  # ISO 8601, UTC
    run_id: str  # "": it was skipped, or is only what was there at first
    state: str = ""  # digest of what a trigger saw
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Notice(Record):
    """Something that was notified, the subject; so it is notified once."""

    text: str


RECORDS: dict[What, type[Record]] = {
    "submissions": Submission,
    "priorities": PriorityChange,
    "approvals": Approval,
    "schedules": Schedule,
    "firings": Firing,
    "budgets": Budget,
    "notices": Notice,
}


def current_person() -> str:
    """Whose fair share and budget it is: the user, whatever the machine, or the name that a service gives."""
    actor = current_actor()
    return actor.token_name or actor.user


def key_of(what: What, subject: str, number: int) -> str:
    return f"{QUEUE}/{what}/{quote(subject, safe='')}/{number:0{NUMBER_DIGITS}d}.json"


def parts_of(key: str) -> tuple[What, str, int] | None:
    """(what, subject, number) of a key; None: not a record of the queue."""
    parts = key.split("/")
    number = parts[-1].removesuffix(".json")
    if len(parts) != 4 or parts[0] != QUEUE or not number.isdecimal():
        return None
    what = next((what for what in RECORDS if what == parts[1]), None)
    return (what, unquote(parts[2]), int(number)) if what else None


def put_record(store: Store, what: What, subject: str, record: Record, *, number: int | None = None) -> str | None:
    """Write a record about a subject; returns its key. `number`: only as this one, None if that exists already."""
    if not subject or len(subject) > 200:
        raise RecipeError(f"{what}: found {subject!r}, expected a name of 1 to 200 characters")
    data = record_bytes(to_json(record))
    if number is not None:
        key = key_of(what, subject, number)
        return key if store.put_new(key, data) else None
    folder = f"{QUEUE}/{what}/{quote(subject, safe='')}"
    while True:
        known = [found[2] for item in store.list(folder) if (found := parts_of(item.key))]
        key = key_of(what, subject, max(known, default=0) + 1)
        if store.put_new(key, data):
            return key


def to_json(record: Record) -> dict[str, Any]:
    return asdict(record)
