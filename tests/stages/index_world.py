"""Two small datasets with codes, a vocabulary and a tokenizer, as artifacts of a stage that indexes them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipelines.tokens.token_shards import TokenizerIdentity
from data_pipelines.tokens.vocabulary import build_vocabulary
from models.dualvitok import weights
from models.dualvitok.model import DualViTok
from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.shard_map.map_settings import MapSettings, MapTools
from orchestrator.shard_map.map_shards import map_shards
from orchestrator.shard_map.worker_pool import IdleWorkers
from orchestrator.shards import Shard, ShardRecord, ShardWorker
from orchestrator.stage import Resources, RetryPolicy, StageKind
from orchestrator.store.store import open_store
from orchestrator.testing import FolderContext, RecordingTracker, folder_context
from tests.data_pipelines.conftest import Wanted, wanted_samples, write_dataset, write_tokens
from tests.data_pipelines.tiny_run import TOKENIZER

IDENTITY = TokenizerIdentity(sha256="a" * 64, semantic_codes=16, pixel_codes=32, pixel_factor=8)
Inputs = Mapping[str, list[Path]]


def write_inputs(folder: Path, *, names: Sequence[str] = ("one", "two"), num_val: int = 0) -> Inputs:
    """60 and 30 samples of all tasks in three and two shards, some without codes.

    `names`: samples of datasets of one name have the same ids; `num_val`: the first of the first are of split val.
    """
    found: dict[str, list[Path]] = {"datasets": [], "tokens": []}
    for number, (name, count) in enumerate(zip(names, (60, 30), strict=True)):
        samples: list[Wanted] = wanted_samples(count, seed=number)
        if number == 0:
            samples[:num_val] = [replace(sample, split="val") for sample in samples[:num_val]]
        dataset, tokens = folder / f"{name}-{number}" / "dataset", folder / f"{name}-{number}" / "tokens"
        ids = write_dataset(dataset, samples, name=name)
        write_tokens(tokens, dataset, samples, ids, tokenizer=IDENTITY, without=ids[::10])
        found["datasets"].append(dataset)
        found["tokens"].append(tokens)
    (folder / "tokenizer").mkdir()
    weights.save(DualViTok(TOKENIZER), folder / "tokenizer")
    (folder / "vocabulary").mkdir()
    build_vocabulary(
        found["datasets"],
        folder / "tokenizer",
        folder / "vocabulary",
        resolutions=(64, 128),
        text_vocabulary=300,
        first_id=0,
        text_tokenizer=None,
    )
    return {**found, "tokenizer": [folder / "tokenizer"], "vocabulary": [folder / "vocabulary"]}


@dataclass(kw_only=True, eq=False)
class _Call:
    thunk: Callable[[], Any]

    def result(self) -> Any:
        return self.thunk()


@dataclass(kw_only=True, eq=False)
class _Process:
    host: Any

    def call(self, method: str, *arguments: Any) -> _Call:
        return _Call(thunk=lambda: getattr(self.host, method)(*arguments))

    def kill(self) -> None: ...


class _OneProcess:
    """A double of a cluster: every worker is in this process, and ends with it."""

    def spawn(self, holder: Callable[..., Any], *arguments: Any, resources: object) -> _Process:
        return _Process(host=holder(*arguments))

    def wait(self, calls: Sequence[_Call], timeout_s: float) -> list[_Call]:
        return [calls[0]]


@dataclass(kw_only=True)
class Attempt:
    """Attempts at one stage that share a store, so that what one has recorded the next finds."""

    kind: StageKind[Any]
    folder: Path
    inputs: Inputs
    number: int = 0
    tracker: RecordingTracker = field(default_factory=RecordingTracker)

    def run(self, config: Any) -> tuple[Path, dict[str, float]]:
        """Where the output is, and the metrics."""
        self.number += 1
        slots: Any = {slot: folders for slot, folders in self.inputs.items() if slot in self.kind.inputs}
        context = folder_context(self.kind, self.folder / f"attempt-{self.number}", inputs=slots)
        context.tracker = self.tracker
        metrics = self.kind.run(config, _WithMap(context, self.folder, self.number))  # type: ignore[arg-type]  # by name
        return context.output, dict(metrics)

    def counts(self) -> list[tuple[int, int]]:
        """(reused, made) of each map."""
        planned = [fields["reused"] for kind, fields in self.tracker.events if kind == "shards_planned"]
        made = [fields["made"] for kind, fields in self.tracker.events if kind == "shards_finished"]
        return [(int(str(a)), int(str(b))) for a, b in zip(planned[-len(made) :], made, strict=True)]


class _WithMap:
    """A context whose maps are durable."""

    def __init__(self, context: FolderContext, root: Path, number: int) -> None:
        self._context, self._number, self._root = context, number, root
        self._ledger = ShardLedger(open_store(root / "store"), root / "cache")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def inputs(self, slot: str) -> Sequence[Artifact]:
        return self._context.inputs(slot)

    def map_shards(
        self,
        worker: ShardWorker,
        shards: Sequence[Shard],
        *,
        label: str,
        identity: Mapping[str, JSON],
        unit: str = "items",
    ) -> list[ShardRecord]:
        kind = self._context.kind
        settings = MapSettings(
            stage_kind=kind.name,
            attempt=AttemptId.of("run", kind.name, epoch=1, number=self._number),
            version=kind.version,
            label=label,
            identity=identity,
            resources=Resources(),
            retry=RetryPolicy(wait_s=0.001),
            scratch=self._context.scratch,
            unit=unit,
        )
        tools = MapTools(
            cluster=_OneProcess(),  # type: ignore[arg-type]  # a double
            ledger=self._ledger,
            tracker=self._context.tracker,
            record_use=lambda _shards: None,
            stop_requested=lambda: False,
            on_recorded=lambda _stored: None,
            rng=random.Random(0),
            idle_workers=IdleWorkers(),
        )
        finished = map_shards(worker, shards, settings, tools)
        return [self._ledger.to_record(entry.stored, shard=entry.name, reused=entry.reused) for entry in finished]
