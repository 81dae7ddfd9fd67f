"""What a stage kind declares and what its `run` is given; the contract between the kernel and every stage."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from orchestrator.artifact import JSON, Artifact
from orchestrator.shards import Shard, ShardRecord, ShardWorker

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

C = TypeVar("C")


class Location(str):
    """A configuration value that says where something lies. Never part of an identity."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> "CoreSchema":
        """Text in a recipe; called by pydantic when it decodes a configuration class with a location in it."""
        from pydantic_core import core_schema  # late: this file stays free of third parties

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One named input of a stage kind."""

    kind: str  # artifact kind that fits, e.g. "dataset@1"
    many: bool = False
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Execution only, never identity."""

    workers: int = 1  # parallel workers (shard workers, or training ranks)
    min_workers: int = 0  # training goes on with as few while the cluster has no room for more; 0: only with all
    cpus: float = 1.0  # for each worker
    gpus: float = 0.0  # for each worker
    memory_gib: float = 0.0  # for each worker; 0: unstated

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: found {self.workers}, expected at least 1")
        if not 0 <= self.min_workers <= self.workers:
            raise ValueError(f"min_workers: found {self.min_workers}, expected 0 to workers ({self.workers})")
        if min(self.cpus, self.gpus, self.memory_gib) < 0:
            raise ValueError("cpus, gpus and memory_gib cannot be negative")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Execution only, never identity."""

    attempts: int = 3  # tries that count against the budget of a failure class
    wait_s: float = 1.0  # first back-off; doubles, with jitter
    hang_after_s: float = 1800.0  # no progress for this long is a hang
    max_quarantined_share: float = 0.01  # of the items of one map
    checkpoint_every: int = 0  # training steps; 0: as often as it pays, by the measured cost of a checkpoint
    mean_uptime_h: float = 0.0  # between two failures of the stage; 0: estimated from its number of workers

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: found {self.attempts}, expected at least 1")
        if self.wait_s < 0 or self.hang_after_s <= 0:
            raise ValueError("wait_s cannot be negative and hang_after_s must be more than 0")
        if min(self.checkpoint_every, self.mean_uptime_h) < 0:
            raise ValueError("checkpoint_every and mean_uptime_h cannot be negative")
        if not 0 <= self.max_quarantined_share <= 1:
            raise ValueError(f"max_quarantined_share: found {self.max_quarantined_share}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Bounds of one figure that a stage returns. Execution only, never identity."""

    at_least: float | None = None
    at_most: float | None = None
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError("found no bound, expected at_least or at_most")


class Tracker(Protocol):
    """Metrics and progress of one attempt. Calls return at once; a dead tracking server only delays delivery."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None: ...
    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint, verified when found."""

    step: int
    path: Path  # local folder with its files
    meta: dict[str, JSON]


class Checkpoints(Protocol):
    """Committed checkpoints of one stage fingerprint, shared by every attempt of every run. Can be pickled."""

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files match their digests; damaged ones are skipped and reported."""

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        """Publish the files below `folder` as the checkpoint of `step`; the first commit of a step wins."""

    def prune(self, keep: int, needed: int | None = None) -> None:
        """Delete all but the newest `keep` verified checkpoints, and the newest one at or before step `needed`."""

    def withdraw(self, after: int) -> None:
        """Give up the checkpoints of later steps than `after`: what was trained since then is trained differently."""


class StageContext(Protocol):
    """What `run` may use. Implemented by the executor."""

    @property
    def stage_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def attempt_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def output(self) -> Path:
        """Empty folder; what lies in it when `run` returns becomes the artifact."""

    @property
    def scratch(self) -> Path:
        """Local folder of this attempt for temporary files; not kept."""

    @property
    def resources(self) -> Resources: ...
    @property
    def retry(self) -> RetryPolicy: ...
    @property
    def tracker(self) -> Tracker: ...
    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def tombstones(self) -> Mapping[str, frozenset[str]]:
        """Marks of content that was taken down and must not come in again, by kind of mark."""

    @property
    def memory_halvings(self) -> int:
        """How often what is held at once must be halved, because earlier attempts ran out of memory. Never identity:
        a micro-batch is halved and the accumulation doubled, the result stays the same."""

    def input(self, slot: str) -> Artifact:
        """The only artifact in `slot`."""

    def inputs(self, slot: str) -> Sequence[Artifact]:
        """All artifacts in `slot`, in the recipe's order; empty for an absent optional slot."""

    def stop_requested(self) -> bool:
        """True when the run should come to a clean stop at the next commit point."""

    def connect_ray(self) -> None:
        """Make sure that this process is connected to Ray; for stages that start their own workers."""

    def map_shards(
        self,
        worker: ShardWorker,
        shards: Sequence[Shard],
        *,
        label: str,
        identity: Mapping[str, JSON],
        unit: str = "items",
    ) -> list[ShardRecord]:
        """Run `worker` over `shards` on Ray, durably; records come back in the order of `shards`.

        Shards whose record exists (from any run) are not run again. `identity` names what else decides a shard's
        output (the relevant part of the config, digests of weights); the stage kind's name and version and `label`
        are added to it. Work in flight is bounded by `resources.workers`. Items that fail or kill their process
        are narrowed down, quarantined and reported; above `retry.max_quarantined_share` the stage fails.
        """

    def adopt(self, record: ShardRecord, names: Mapping[str, str] | None = None) -> None:
        """Make a shard's files part of this stage's output without copying bytes where the store can link.

        `names` maps a file of the record to its path in the artifact; files not named are left out; by default
        all are taken under their own paths.
        """


RunFunction = Callable[[C, StageContext], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A name in the tracker's model registry, and the alias that moves to the new version."""

    name: str
    alias: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.alias, re.ASCII) or re.fullmatch(r"latest|v\d+", self.alias, re.IGNORECASE):
            raise ValueError(
                f"alias: {self.alias!r}; expected letters, digits, '_' and '-', but neither 'latest' nor a version "
                "such as 'v1', which registries keep for themselves"
            )


@dataclass(frozen=True, kw_only=True)
class StageKind(Generic[C]):
    """What a stage does. `version` is raised by a person when the same config must give another output."""

    name: str
    version: int
    config: type[C]  # frozen, keyword-only dataclass
    run: RunFunction[C]
    output: str  # artifact kind, e.g. "dataset@1"
    inputs: Mapping[str, Slot] = field(default_factory=dict)
    sources: Callable[[C], Mapping[str, Path]] | None = None  # files outside the store that it reads, by stable name
    needs: Callable[[C], Mapping[str, str]] | None = None  # config field -> path that must exist when a run starts
    precheck: Callable[[C, Mapping[str, Any]], None] | None = None  # (config, inputs' configs by slot): PrecheckError
    model_version: Callable[[C], "ModelVersion"] | None = None  # what the output is registered as, once committed
    deterministic: bool = True  # the same fingerprint gives the same bytes
    figures: frozenset[str] = frozenset()  # all that `run` may return, 0 where it does not; empty: known after it ran


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One use of a kind in a recipe."""

    id: str
    kind: StageKind[Any]
    config: Any
    inputs: Mapping[str, tuple[str, ...]]  # slot -> ids of upstream stages
    resources: Resources
    retry: RetryPolicy
    gates: Mapping[str, Gate] = field(default_factory=dict)  # by the name of the figure


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in upstream-first order."""

    name: str
    stages: tuple[StageSpec, ...]
    file: str = ""  # where it was read from, for messages
