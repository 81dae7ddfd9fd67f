"""The context over plain folders behaves as the real one, and names the slips of an author."""

import inspect
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import Artifact
from orchestrator.errors import StageCodeError, StoreError
from orchestrator.execution.stage_context import AttemptContext
from orchestrator.identity import fingerprint_of
from orchestrator.shard_map.map_shards import shard_payload
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord, sum_metrics
from orchestrator.stage import Execution, Resources, Slot, StageContext, StageKind
from orchestrator.testing import FolderContext, folder_artifact, folder_context, run_stage
from tests.orchestrator.test_cli import SAY, SHOUT, SayConfig, ShoutConfig


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    letter: str


@dataclass(frozen=True, kw_only=True)
class CountWorker:
    letter: str

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        def run(shard: ShardInput) -> ShardOutcome:
            counts = {str(word): str(word).count(self.letter) for word in shard.items}
            (shard.output / "part").mkdir()
            (shard.output / "part" / "counts.json").write_text(json.dumps(counts))
            return ShardOutcome(
                rows=len(counts), metrics={"found": float(sum(counts.values()))}, result=list(counts.values())
            )

        return run


def count(config: CountConfig, context: StageContext) -> Mapping[str, float]:
    words = [line for folder in context.inputs("words") for line in (folder.path / "words.txt").read_text().split()]
    shards = [Shard(name=f"s{at}", items=tuple(words[at : at + 2])) for at in range(0, len(words), 2)]
    records = context.map_shards(
        CountWorker(letter=config.letter), shards, label="count", identity={"letter": config.letter}, unit="words"
    )
    for record in records:
        context.adopt(record, {"part/counts.json": f"counts/{record.shard}.json"})
    context.tracker.log_metrics({"shards": float(len(records))}, step=1)
    context.tracker.log_event("counted", {"letter": config.letter})
    return sum_metrics(records)


COUNT = StageKind(
    name="count", version=3, config=CountConfig, run=count, output="counts@1",
    inputs={"words": Slot(kind="words@1", many=True), "more": Slot(kind="words@1", required=False)},
    metric_names=frozenset({"rows", "quarantined", "found"}),
)  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.txt").write_text("banana cherry fig")
    return tmp_path / "words"


def test_the_example_of_the_module_works(tmp_path: Path) -> None:
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "words.txt").write_text("hello")
    context = folder_context(SHOUT, tmp_path / "work", inputs={"words": tmp_path / "said"})
    assert run_stage(SHOUT, ShoutConfig(times=2), context) == {"words": 2.0}
    assert (context.output / "words.txt").read_text() == "HELLOHELLO"
    assert context.tracker.steps == [(2, 2, "shouts")]


def test_it_has_every_member_of_a_context() -> None:
    members = {name for name in vars(StageContext) if not name.startswith("_")}
    fields = {*vars(FolderContext), *FolderContext.__dataclass_fields__}
    assert members <= fields
    for name in ("map_shards", "adopt", "input", "inputs", "execution", "record_provenance"):
        assert inspect.signature(getattr(FolderContext, name)) == inspect.signature(getattr(AttemptContext, name))


def test_a_map_runs_here_and_its_files_are_adopted(words: Path, tmp_path: Path) -> None:
    context = folder_context(COUNT, tmp_path / "work", inputs={"words": [words, words]})
    assert run_stage(COUNT, CountConfig(letter="a"), context) == {"rows": 6.0, "quarantined": 0.0, "found": 6.0}
    found = {path.name: json.loads(path.read_text()) for path in (context.output / "counts").iterdir()}
    assert found == {"s0.json": {"banana": 3, "cherry": 0}, "s2.json": {"fig": 0, "banana": 3},
                     "s4.json": {"cherry": 0, "fig": 0}}  # fmt: skip
    assert context.tracker.steps == [(1, 3, "words"), (2, 3, "words"), (3, 3, "words")]
    assert context.tracker.metrics == [(1, {"shards": 3.0})]
    assert context.tracker.events == [("counted", {"letter": "a"})]


def mapped(folder: Path, shards: list[Shard], worker: Any = None, **more: Any) -> list[ShardRecord]:
    context = folder_context(COUNT, folder / "work", inputs={"words": folder / "words"})
    worker = worker or CountWorker(letter="a")
    return context.map_shards(worker, shards, label="count", identity={"letter": "a"}, **more)


def test_shards_have_the_fingerprints_of_a_run(words: Path, tmp_path: Path) -> None:
    shard = Shard(name="s0", items=("banana",), identity={"file": "ab"}, work={"path": "x"})
    (record,) = mapped(tmp_path, [shard])
    payload = shard_payload(shard, stage_kind="count", version=3, label="count", identity={"letter": "a"})
    assert record.fingerprint == fingerprint_of(payload)
    assert [(entry.path, entry.bytes) for entry in record.files] == [("part/counts.json", 13)]
    assert record.outcome.result == [3]


@dataclass(frozen=True)
class BadWorker:
    result: Any = None

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        def run(shard: ShardInput) -> ShardOutcome:
            if self.result is None:
                raise ZeroDivisionError(shard.name)
            return ShardOutcome(rows=1, result=self.result)

        return run


def test_what_a_worker_does_wrong_is_raised_here(words: Path, tmp_path: Path) -> None:
    shards = [Shard(name="s0", items=("fig",))]
    with pytest.raises(ZeroDivisionError, match="s0"):
        mapped(tmp_path, shards, BadWorker())
    (tmp_path / "a" / "words").mkdir(parents=True)
    with pytest.raises(TypeError):
        mapped(tmp_path / "a", shards, BadWorker(result={1, 2}))
    (tmp_path / "b" / "words").mkdir(parents=True)
    with pytest.raises(ValueError, match="map 'count': two shards have one name"):
        mapped(tmp_path / "b", [*shards, *shards])


def test_checkpoints_are_committed_pruned_and_retracted(tmp_path: Path) -> None:
    checkpoints = pickle.loads(pickle.dumps(folder_context(SAY, tmp_path / "work").checkpoints))  # noqa: S301 - our own
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        (tmp_path / "model.txt").unlink(missing_ok=True)
        folder = tmp_path / f"from-{step}"
        folder.mkdir()
        (folder / "model.txt").write_text(f"weights {step}")
        checkpoints.commit(step, folder, {"loss": 1.0 / step})
    checkpoints.commit(30, tmp_path / "from-10", {})  # the first commit of a step wins
    newest = checkpoints.latest()
    assert (newest.step, (newest.path / "model.txt").read_text(), newest.meta) == (30, "weights 30", {"loss": 1 / 30})
    checkpoints.prune(1, needed=25)
    assert checkpoints._steps() == [20, 30]
    checkpoints.retract_after(20)
    assert checkpoints.latest().step == 20
    with pytest.raises(ValueError, match="keep: found 0"):
        checkpoints.prune(0)


def test_a_request_to_stop_and_the_settings_reach_the_stage(tmp_path: Path) -> None:
    context = folder_context(
        SAY, tmp_path / "work", resources=Resources(workers=4), tombstones={"sha256": frozenset({"ab"})},
        memory_halvings=2, stage_id="said",
    )  # fmt: skip
    assert (context.stage_id, context.resources.workers, context.memory_halvings) == ("said", 4, 2)
    assert context.tombstones["sha256"] == {"ab"}
    assert not context.stop_requested()
    context.is_stop_requested = True
    assert context.stop_requested()


@dataclass(frozen=True, kw_only=True)
class CountExecution(Execution):
    threads: int = 2


@dataclass(frozen=True, kw_only=True)
class OtherExecution(Execution):
    pass


def test_execution_settings_and_provenance(tmp_path: Path) -> None:
    kind = replace(SAY, execution=CountExecution)
    assert folder_context(kind, tmp_path / "a").execution(CountExecution).threads == 2
    context = folder_context(kind, tmp_path / "b", execution=CountExecution(threads=5))
    assert context.execution(CountExecution).threads == 5
    with pytest.raises(TypeError, match="has the execution settings CountExecution, not OtherExecution"):
        context.execution(OtherExecution)
    assert folder_context(SAY, tmp_path / "c").execution(CountExecution).threads == 2
    context.record_provenance({"workers": 3})
    assert context.facts == {"workers": 3}


def test_artifacts_have_the_metrics_and_the_identity_of_their_files(words: Path, tmp_path: Path) -> None:
    artifact = folder_artifact(words, "words@1", metrics={"words": 3.0})
    context = folder_context(SHOUT, tmp_path / "work", inputs={"words": artifact})
    given: Artifact = context.input("words")
    assert (given.manifest.kind, given.manifest.metrics) == ("words@1", {"words": 3.0})
    assert given.fingerprint == folder_artifact(words, "words@1").fingerprint
    (words / "words.txt").write_text("changed")
    assert given.fingerprint != folder_artifact(words, "words@1").fingerprint
    (words / "link").symlink_to(words / "words.txt")
    with pytest.raises(StoreError, match="found a link"):
        folder_artifact(words, "words@1")


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (["wrds"], "stage kind 'count' has no input slot 'wrds'; its slots: words, more"),
        ([], "slot 'words' holds 0 artifacts, expected at least one"),
        (["words", "more more"], "slot 'more' holds 2 artifacts, expected one"),
    ],
)
def test_wrong_inputs_are_refused(words: Path, tmp_path: Path, slots: list[str], message: str) -> None:
    inputs = {slot.split()[0]: [words] * len(slot.split()) for slot in slots}
    with pytest.raises(ValueError, match=message):
        folder_context(COUNT, tmp_path / "work", inputs=inputs)


def test_slips_inside_run_are_named(words: Path, tmp_path: Path) -> None:
    context = folder_context(COUNT, tmp_path / "work", inputs={"words": [words, words]})
    with pytest.raises(StageCodeError, match="has no input slot 'wrds'"):
        context.inputs("wrds")
    with pytest.raises(StageCodeError, match="slot 'words' holds 2 artifacts, expected exactly 1"):
        context.input("words")
    (record,) = context.map_shards(
        CountWorker(letter="a"), [Shard(name="s0", items=("fig",))], label="count", identity={}
    )
    with pytest.raises(StageCodeError, match=r"shard s0 has no file 'counts.json', only \['part/counts.json'\]"):
        context.adopt(record, {"counts.json": "x"})
    with pytest.raises(ValueError, match="expected an unused folder"):
        folder_context(COUNT, tmp_path / "work", inputs={"words": words})
    with pytest.raises(ValueError, match="count: found a SayConfig, expected a CountConfig"):
        run_stage(COUNT, SayConfig(text="x"), context)  # type: ignore[arg-type]
    unknown = StageKind(
        name="say", version=1, config=SayConfig, run=SAY.run, output="words@1", metric_names=frozenset({"letters"})
    )
    with pytest.raises(StageCodeError, match="returned the metrics words, which are not in `metric_names`"):
        run_stage(unknown, SayConfig(text="x"), folder_context(unknown, tmp_path / "other"))
