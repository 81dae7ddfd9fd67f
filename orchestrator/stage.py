"""The contract between the kernel and every stage: what a stage kind declares, and what its `run` receives."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Literal, Protocol, TypeVar

from orchestrator.artifact import JSON, Artifact, Chunks, FileEntry
from orchestrator.cost import CostFunction
from orchestrator.learning import Learned, Serving
from orchestrator.shards import Shard, ShardRecord, ShardWorker

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

C = TypeVar("C")
E = TypeVar("E", bound="Execution")


class Location(str):
    """A path or an address in a configuration. Never part of an identity."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> "CoreSchema":
        """A location is text in a recipe; pydantic calls this when it decodes a configuration class that has one."""
        from pydantic_core import core_schema  # late: this file imports no third-party package

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One named input of a stage kind."""

    kind: str  # artifact kind that fits, e.g. "dataset@1"
    many: bool = False
    required: bool = True
    # Of a remote store, the files that are fetched where they are read, when they are first read; None: none, all are
    # fetched before `run` is called. Workers on other nodes see them through `StageContext.node_inputs`.
    streamed: Callable[[str], bool] | None = None
    decides: bool = True  # False: an index or another form of other inputs, which changes no result; never identity


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The settings of a kind that cannot change its result, beside its config; kinds derive their own from this class.

    How many checkpoints are kept, how many threads decode, how a model is spread over workers: the section `execution`
    of a stage in a recipe. No value of such a class is ever part of an identity, nor may one be inside a config. A
    setting that changes the bytes of a result, or which data decide it, belongs into the config.
    """


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Execution only, never identity."""

    workers: int = 1  # parallel workers (shard workers, or training ranks)
    min_workers: int = 0  # training continues with this few while the cluster has no room for more; 0: only with all
    cpus: float = 1.0  # for each worker
    gpus: float = 0.0  # for each worker
    memory_gib: float = 0.0  # for each worker; 0: unstated
    machine: str = ""  # a machine type of the cluster's profile; "": the first that can hold a worker

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

    attempts: int = 3  # failed attempts allowed by the budget of a failure class
    wait_s: float = 1.0  # first back-off; doubles, with jitter
    hang_after_s: float = 1800.0  # an attempt without progress for this long counts as hanging
    max_quarantined_share: float = 0.01  # of the items of one map
    checkpoint_every: int = 0  # training steps; 0: chosen from the measured cost of a checkpoint
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
    """Bounds of one metric that a stage returns. Execution only, never identity."""

    at_least: float | None = None
    at_most: float | None = None
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError("found no bound, expected at_least or at_most")


class Tracker(Protocol):
    """Takes metrics and progress of one attempt. Calls never block; a dead tracking server only delays delivery."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None: ...
    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint, verified when found."""

    step: int
    path: Path  # local folder with its files
    meta: dict[str, JSON]
    digest: str = ""  # SHA-256 of its manifest; with the step, it identifies the checkpoint
    files: tuple[FileEntry, ...] = ()  # below `path`, as the manifest names them


class Checkpoints(Protocol):
    """Committed checkpoints of one stage fingerprint, shared by every attempt of every run. Can be pickled."""

    def take_over(self) -> None:
        """Abort every other attempt that may still write checkpoints here; called once, before training starts."""

    def open(self, step: int, digest: str) -> Checkpoint:
        """Exactly this checkpoint, which `latest` returned in another process. Raises: CorruptArtifactError."""

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files match their digests; damaged checkpoints are skipped and logged."""

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        """Publish the files below `folder` as the checkpoint of `step`; the first commit of a step wins."""

    def begin(self, step: int) -> str:
        """A name under which several processes write the files of one checkpoint; "" if the step has a sound one."""

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        """Write one file of the checkpoint that `begin` named in this or another process; its digest is computed
        while it is written."""

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        """Publish the files of all writers, in the process that began. False: begin again, a checkpoint of an attempt
        that was aborted came first."""

    def prune(self, keep: int, needed: int | None = None, best: int | None = None) -> None:
        """Delete all but the newest `keep` verified checkpoints, the newest one at or before step `needed`, and that
        of step `best`."""

    def retract_after(self, step: int) -> None:
        """Retract the checkpoints of steps later than `step`, because training repeats these steps differently."""


class WorkerLogs(Protocol):
    """Where the workers that a stage starts by itself log. Can be pickled."""

    def open(self, name: str) -> "OpenLog":
        """Called once in a worker's process: from now on its log lines and all that it prints are in a log of the run.

        `name` is unique among the workers of the attempt, e.g. "rank-0". Never fails.
        """

    def output(self, name: str) -> Path:
        """The file with what a worker on this machine has printed; it may not exist."""


class OpenLog(Protocol):
    def close(self) -> None:
        """Write the rest, as the process ends."""


class InputFiles(Protocol):
    """The files of an input that are fetched when they are first read. Can be pickled."""

    @property
    def place(self) -> Path:
        """The path of the input's folder on every node; the files need not be there."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file that has to be fetched; {}: all are on this machine."""

    def fetch(self, name: str) -> Path | None:
        """The file on this node; None: the input has no such file."""

    def open(self, name: str) -> BinaryIO | None:
        """The file for reading a small part of it, e.g. a footer: no more is fetched. None: there is no such file."""

    def read(self, name: str, offset: int, num_bytes: int) -> bytes | None:
        """Bytes of a file, fewer where it ends, in one request. None: there is no such file."""


class NodeInputs(Protocol):
    """The inputs of a stage on the node of the caller. Can be pickled."""

    @property
    def streamed(self) -> Sequence[InputFiles]: ...
    @property
    def cache_bytes(self) -> int:
        """How many bytes of the streamed files this node keeps at most."""

    def open(self) -> None:
        """Fetch what is not streamed, once a node. Raises: PrecheckError: this node does not see what it must read."""


class StageContext(Protocol):
    """What a stage's `run` may use. Implemented by `AttemptContext` in `orchestrator/execution/`."""

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
        """Folder, empty at first; its content when `run` returns becomes the artifact."""

    @property
    def scratch(self) -> Path:
        """Local folder of this attempt for temporary files; deleted afterwards."""

    @property
    def resources(self) -> Resources: ...
    @property
    def retry(self) -> RetryPolicy: ...
    def execution(self, settings: type[E]) -> E:
        """The stage's execution settings; the defaults of a kind that declares none.

        Raises: TypeError if the kind declares another class.
        """

    @property
    def tracker(self) -> Tracker: ...
    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def tombstones(self) -> Mapping[str, frozenset[str]]:
        """Marks of content that was taken down and must not be ingested again, by kind of mark."""

    @property
    def memory_halvings(self) -> int:
        """How many times to halve what is held in memory, because earlier attempts ran out of memory.

        Never identity: a micro-batch is halved and the accumulation doubled, so the result stays the same.
        """

    @property
    def source_digests(self) -> Mapping[str, str]:
        """SHA-256 of the files outside the store that the plan was made for, by the names of `StageKind.sources`."""

    def input(self, slot: str) -> Artifact:
        """The only artifact in `slot`."""

    def inputs(self, slot: str) -> Sequence[Artifact]:
        """All artifacts in `slot`, in the recipe's order; empty for an absent optional slot."""

    @property
    def node_inputs(self) -> NodeInputs:
        """For the workers that a stage starts by itself: `open` is called in each of their processes."""

    def record_provenance(self, facts: Mapping[str, JSON]) -> None:
        """Record how the result is made, e.g. on how many workers, in its manifest. Never identity."""

    def keep_if_failed(self, files: Mapping[str, Path]) -> None:
        """Files that stay open to audit if this attempt fails, by their path in the folder that is kept for them."""

    @property
    def findings(self) -> Path:
        """Folder on this machine for files about this attempt that people look at. It stays for a week, whatever
        becomes of the attempt, and is no part of the artifact."""

    @property
    def avoided_nodes(self) -> Collection[str]:
        """Names of nodes that earlier attempts of the run found unfit, and that this one is to do without."""

    def stop_requested(self) -> bool:
        """True if the stage should stop cleanly at its next commit point."""

    @property
    def worker_logs(self) -> WorkerLogs: ...
    @property
    def plain_training_workers(self) -> bool:
        """True if training workers are to be started as processes of this one, on this machine and without Ray."""

    def connect_ray(self) -> None:
        """Connect this process to Ray unless it is connected; for stages that start their own workers."""

    def map_shards(
        self,
        worker: ShardWorker,
        shards: Sequence[Shard],
        *,
        label: str,
        identity: Mapping[str, JSON],
        unit: str = "items",
    ) -> list[ShardRecord]:
        """Run `worker` over `shards` on Ray, skipping those already recorded; returns records in the order of `shards`.

        A record counts whichever run made it. `identity` holds what else decides a shard's output (the relevant part
        of the config, digests of weights); the stage kind's name and version and `label` are added to it. At most
        `resources.workers` shards run at a time. Items that fail or kill their process are found by bisection,
        quarantined and reported; if their share exceeds `retry.max_quarantined_share`, the stage fails.
        """

    def adopt(self, record: ShardRecord, names: Mapping[str, str] | None = None) -> None:
        """Add a shard's files to this stage's output, by link instead of by copy where the store can link.

        `names` maps a file of the record to its path in the artifact and leaves out the files that it does not name;
        by default all files are added under their own paths.
        """


RunFunction = Callable[[C, StageContext], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A model's name in the tracker's registry, and the alias that moves to the new version."""

    name: str
    alias: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.alias, re.ASCII) or re.fullmatch(r"latest|v\d+", self.alias, re.IGNORECASE):
            raise ValueError(
                f"alias: {self.alias!r}; expected letters, digits, '_' and '-', but neither 'latest' nor a version "
                "such as 'v1', which registries keep for themselves"
            )


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Where the stage kinds of another package or file come from."""

    target: str  # "module:NAME", or "/path/to/file.py:NAME"
    distribution: str = ""  # the installed package; "": a file or module that belongs to none
    version: str = ""  # of the distribution, else "sha256:..." of the file

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.target})" if self.distribution else self.target


@dataclass(frozen=True, kw_only=True)
class Preparation(Generic[C]):
    """A stage that a recipe need not name: it fills a slot that decides nothing, before devices are asked for.

    It is added for each stage that asks for GPUs and leaves the slot empty; a stage on CPUs does the same work itself.
    """

    kind: "StageKind[Any]"
    config: Callable[[C], Any]  # of the stage that it prepares -> its own
    inputs: tuple[str, ...]  # slots that it reads too, as far as they are filled
    execution: Callable[[Any], Execution] | None = None  # settings from those of the stage


@dataclass(frozen=True, kw_only=True)
class StageKind(Generic[C]):
    """What a stage does. Raise `version` by hand when the same config must give another output."""

    name: str
    version: int
    config: type[C]  # frozen, keyword-only dataclass
    run: RunFunction[C]
    output: str  # artifact kind, e.g. "dataset@1"
    execution: type[Execution] = Execution  # frozen, keyword-only dataclass; every field has a default
    inputs: Mapping[str, Slot] = field(default_factory=dict)
    preparations: Mapping[str, Preparation[C]] = field(default_factory=dict)  # by slot, one that does not decide
    sources: Callable[[C], Mapping[str, Path]] | None = (
        None  # files that it reads from outside the store, by stable name
    )
    preview: Callable[[C], Sequence[str]] | None = None  # lines that a plan shows: what is read from outside, and how
    needs: Callable[[C], Mapping[str, str]] | None = None  # config field -> path that must exist when a run starts
    precheck: Callable[[C, Mapping[str, Any]], None] | None = None  # (config, inputs' configs by slot): PrecheckError
    # (config, execution, resources): PrecheckError, if they cannot go together on any machine
    precheck_execution: Callable[[C, Any, Resources], None] | None = None
    model_version: Callable[[C], "ModelVersion"] | None = None  # what the output is registered as, once committed
    deterministic: bool = True  # the same fingerprint gives the same bytes
    # All metrics that `run` may return; one that it does not return counts as 0. Empty: known only after a run.
    metric_names: frozenset[str] = frozenset()
    # What `run` returns: name -> its meaning in a line, the most telling first; `<...>` in a name stands for any text.
    metrics: Mapping[str, str] = field(default_factory=dict)
    renamed_metrics: Mapping[str, str] = field(default_factory=dict)  # old name -> new; `x/`: all that begin with it
    headline: Callable[[Mapping[str, float]], str] | None = None  # the telling metrics in a few words
    # What a reader of the metrics must know before he believes the output to be good, a sentence each.
    warnings: Callable[[Mapping[str, float]], Sequence[str]] | None = None
    cost: CostFunction | None = None  # of a training, derived from the config; None: estimated from history alone
    amount: Callable[[C], str] | None = None  # how much work a run is, in a few words: "5,000 steps of 1,024 samples"
    units: Callable[[C], float] | None = None  # of its progress that a run does, where the config says it: steps
    learned: Learned[C] | None = None  # None: its output holds samples, or what is computed from each of them
    rows_name_samples: bool = False  # each row of its tables names its sample, so that other samples are not in it
    serving: Serving[C] | None = None  # None: it says nothing about models that can be used
    plugin: Plugin | None = None  # set when it is loaded from another package or file; None: built in

    def gives_metric(self, name: str) -> bool:
        """Whether `run` may return a metric of this name; True for any name if the kind declares none."""
        if self.metric_names:
            return name in self.metric_names
        return not self.metrics or any(_metric_pattern(declared).fullmatch(name) for declared in self.metrics)


def _metric_pattern(declared: str) -> re.Pattern[str]:
    parts = re.split(r"<[^>]+>", declared)
    return re.compile(".+".join(map(re.escape, parts)))


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One use of a kind in a recipe."""

    id: str
    kind: StageKind[Any]
    config: Any
    inputs: Mapping[str, tuple[str, ...]]  # slot -> ids of upstream stages
    resources: Resources
    retry: RetryPolicy
    execution: Execution = Execution()
    gates: Mapping[str, Gate] = field(default_factory=dict)  # by the name of the metric
    approval: bool = False  # it waits for the word of a person (`illume approve`); execution only, never identity


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in upstream-first order."""

    name: str
    stages: tuple[StageSpec, ...]
    file: str = ""  # where it was read from, for messages
