"""The index of samples as a stage: made once by a durable map, equal to the one that a training makes itself."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.training_data import sample_rows
from data_pipelines.training_data.config import LoaderConfig, LoadingGuards, MixturePart
from data_pipelines.training_data.index import DROPPED_FILE, META_FILE, open_training_index
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.order import TrainingOrder
from data_pipelines.training_data.sources import SourceFolders
from models.errors import DataError
from orchestrator.artifact import Fingerprint
from orchestrator.errors import PrecheckError
from orchestrator.shards import Quarantined, ShardOutcome, ShardRecord
from orchestrator.stage import Slot
from orchestrator.testing import folder_artifact, folder_context
from stages.index_samples import INDEX_SAMPLES
from stages.programs.index_config import samples_index_config
from stages.programs.index_use import check_index_config, given_index, refuse_quarantined
from stages.programs.sample_data import rendering_of
from stages.train_mllm import TRAIN_MLLM
from tests.stages.index_world import Attempt, Inputs, write_inputs

TASKS = ("text", "understanding", "generation", "editing")
CONFIG = LoaderConfig(
    parts=(
        MixturePart(tasks=TASKS, weight=3.0),
        MixturePart(tasks=("understanding", "generation"), weight=1.0, dataset=1),
        MixturePart(tasks=TASKS, weight=1.0),  # the same samples once more
    ),
    seed=5,
    row_tokens=400,
    rows_per_step=2,
    held_out_share=0.2,
)
GUARDS = LoadingGuards(max_dropped_share=0.9)
NUM_SHARDS = 5  # of the parts; those of the third are the first's


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def attempt(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    monkeypatch.setattr("orchestrator.shard_map.map_run.POLL_S", 0.002)
    monkeypatch.setattr("orchestrator.testing.FolderContext.execution", lambda _self, _settings: GUARDS)
    return Attempt(kind=INDEX_SAMPLES, folder=tmp_path, inputs=inputs)


def in_process(inputs: Inputs, folder: Path) -> Path:
    sources = [
        SourceFolders(dataset=dataset, tokens=tokens)
        for dataset, tokens in zip(inputs["datasets"], inputs["tokens"], strict=True)
    ]
    rendering = rendering_of(CONFIG, vocabulary=inputs["vocabulary"][0], tokenizer=inputs["tokenizer"][0])
    build_training_index(sources, CONFIG, rendering, folder, GUARDS)
    return folder


def test_workers_make_what_one_process_makes(attempt: Attempt, inputs: Inputs, tmp_path: Path) -> None:
    made, metrics = attempt.run(samples_index_config(CONFIG))
    expected = in_process(inputs, tmp_path / "expected")
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in made.iterdir()) == names
    for name in set(names) - {META_FILE}:  # which has the weights of the mixture
        assert (made / name).read_bytes() == (expected / name).read_bytes(), name
    rendering = rendering_of(CONFIG, vocabulary=inputs["vocabulary"][0], tokenizer=inputs["tokenizer"][0])
    orders = [
        TrainingOrder(open_training_index(folder, CONFIG, rendering), CONFIG).position(7) for folder in (made, expected)
    ]
    assert orders[0] == orders[1]
    assert metrics["samples"] > 90
    assert metrics["held_out"] > 0
    assert metrics["dropped/no_codes"] == (made / DROPPED_FILE).read_text().count("no_codes")
    assert attempt.counts() == [(0, NUM_SHARDS)]


@pytest.mark.parametrize("after", [0, 2, 4])
def test_what_a_killed_attempt_recorded_is_not_made_again(
    attempt: Attempt, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    calls: list[str] = []
    make = sample_rows.sample_rows

    def dies(*arguments: Any) -> Any:
        if len(calls) == after:
            raise KeyboardInterrupt  # as a process that is killed: nothing catches it
        calls.append(str(arguments[1]))
        time.sleep(0.3)  # so long that each shard is recorded by itself
        return make(*arguments)

    monkeypatch.setattr(sample_rows, "sample_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        attempt.run(samples_index_config(CONFIG))
    monkeypatch.setattr(sample_rows, "sample_rows", lambda *given: calls.append(str(given[1])) or make(*given))
    made, _ = attempt.run(samples_index_config(CONFIG))
    ((num_reused, num_made),) = attempt.counts()
    assert num_reused + num_made == NUM_SHARDS
    assert len(calls) == after + num_made
    assert num_reused >= after - 1  # the last may have been about to be recorded
    assert (made / "part-0.ids").read_bytes() == (in_process(inputs, tmp_path / "expected") / "part-0.ids").read_bytes()
    again, _ = attempt.run(samples_index_config(CONFIG))  # a third one makes nothing
    assert attempt.counts()[-1] == (NUM_SHARDS, 0)
    assert (again / META_FILE).read_text() == (made / META_FILE).read_text()


def test_a_shard_that_cannot_be_indexed_fails_the_stage_whatever_share_it_is(tmp_path: Path) -> None:
    outcome = ShardOutcome(rows=0, quarantined=(Quarantined(item="one-00001", reason="it kills its process"),))
    record = ShardRecord(shard="0-one-00001", fingerprint="", path=tmp_path, files=(), outcome=outcome, reused=False)
    with pytest.raises(DataError, match=r"index: 1 shards cannot be indexed, the first is one-00001: it kills"):
        refuse_quarantined("index", [record])


def test_an_index_of_other_data_is_refused_before_a_gpu_is_asked_for(inputs: Inputs, tmp_path: Path) -> None:
    expected = samples_index_config(CONFIG)
    check_index_config("train_mllm", {"index": expected}, expected)
    check_index_config("train_mllm", {}, expected)
    other = samples_index_config(LoaderConfig(parts=CONFIG.parts, seed=5, row_tokens=900, rows_per_step=2))
    with pytest.raises(PrecheckError, match=r"has another row_tokens, held_out_share than this stage needs .*400"):
        check_index_config("train_mllm", {"index": other}, expected)
    assert TRAIN_MLLM.inputs["index"] == Slot(kind="sample_index@1", required=False, decides=False)
    index = folder_artifact(inputs["datasets"][0], kind="sample_index@1")
    index = replace(index, manifest=replace(index.manifest, inputs={"datasets": (Fingerprint("0" * 64),)}))
    context = folder_context(TRAIN_MLLM, tmp_path / "context", inputs={**inputs, "index": [index]})
    with pytest.raises(PrecheckError, match="made from other datasets than this stage reads"):
        given_index(context, ("datasets", "tokens"))
