"""The state of a map's unfinished shards, and the calls that are made for them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.failures.classes import FailureReport
from orchestrator.identity import canonical_json
from orchestrator.redaction.masking import mask_secrets
from orchestrator.shard_map.bisection import Bisection
from orchestrator.shard_map.verdicts import Hearing, ProcessCheck
from orchestrator.shards import Quarantined, Shard

MAX_WITNESSES = 3  # that are kept


@dataclass(kw_only=True)
class PendingShard:
    """A shard without a record yet, and the state of its failures and bisection."""

    shard: Shard
    fingerprint: str
    remaining: tuple[int, ...]  # positions of the items that are not quarantined
    bad_items: dict[int, Quarantined] = field(default_factory=dict)  # by position
    deaths: int = 0  # of processes that ran the whole shard
    breaks_processes: bool = False  # those in which it failed do not work on known-good items any more
    infra_failures: int = 0
    unknown_failures: int = 0
    bisections: int = 0  # started ones
    alone: bool = False  # the call that ran it with others failed: it is not known because of which
    bisection: Bisection | None = None  # the running one
    last_failure: FailureReport | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has gone wrong with it yet, so that it may run together with others."""
        return not (self.deaths or self.infra_failures or self.unknown_failures or self.bisections or self.alone)

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        return tuple(self.bad_items[position] for position in sorted(self.bad_items))


@dataclass(kw_only=True)
class Inquiry:
    """A running hearing about items of a shard, or a check of the process in which the shard failed."""

    pending: PendingShard
    steps: Hearing | ProcessCheck
    witnesses: Sequence["Witness"]
    report: FailureReport | None = None  # the failure that is being looked into, for a check
    process: int = 0  # the process that is checked
    last_place: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One call: a whole shard, a trial of its bisection, a probe for a bug in the code, a step of an inquiry."""

    mode: Literal["shard", "group", "trial", "probe", "step"]
    pending: PendingShard
    positions: tuple[int, ...]
    process: int | None = None  # the only process to run it in; None: any that is not in `avoid`
    avoid: frozenset[int] = frozenset()
    inquiry: Inquiry | None = None  # of a step
    group: tuple["WorkItem", ...] = ()  # whole shards that one call runs one after the other; `pending` is the first


@dataclass(frozen=True, kw_only=True)
class Witness:
    """An item that a process has worked on."""

    pending: PendingShard
    position: int


class Witnesses:
    """The known-good items of a map: those that worked last, of different shards as far as possible."""

    def __init__(self) -> None:
        self._found: deque[Witness] = deque(maxlen=MAX_WITNESSES)

    def __iter__(self) -> Iterator[Witness]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, pending: PendingShard, positions: Sequence[int]) -> None:
        """Note that these items worked together."""
        if positions:
            for old in [old for old in self._found if old.pending.fingerprint == pending.fingerprint]:
                self._found.remove(old)
            self._found.appendleft(Witness(pending=pending, position=positions[0]))

    def add_record(self, pending: PendingShard, stored: StoredShard) -> None:
        """Note a recorded shard that has rows."""
        if stored.outcome.rows:
            bad = {_recorded_form(entry.item) for entry in stored.outcome.quarantined}
            good = (
                position
                for position, item in enumerate(pending.shard.items)
                if not bad or _recorded_form(item) not in bad
            )
            self.add(pending, tuple(islice(good, 1)))


def _recorded_form(item: JSON) -> str:
    """As records have it, without secrets."""
    return canonical_json(mask_secrets(item))
