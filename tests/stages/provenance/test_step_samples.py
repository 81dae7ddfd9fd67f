"""The samples of one step, found through what a kind says about its exposures."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.learning import Exposures, Samples
from stages.provenance import step_samples
from tests.data_pipelines.conftest import wanted_samples, write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "d", wanted_samples(6), per_shard=4)
    return tmp_path / "d"


def found(folder: Path, exposures: Any, step: int) -> list[step_samples.StepSample]:
    stage: Any = SimpleNamespace(
        id="mllm", spec=SimpleNamespace(kind=SimpleNamespace(name="train", plugin=None, learned=exposures))
    )
    training: Any = SimpleNamespace()
    return list(step_samples._samples(stage, training, (folder,), step))


def learned(steps_of: Sequence[Sequence[int]]) -> Any:
    """Each sample in the order of its id in these steps, counted from 0."""

    def exposures(_training: Any, samples: Samples) -> Exposures:
        steps = dict(zip(sorted(samples), steps_of, strict=True))
        return Exposures(num_steps=9, steps=steps)

    return SimpleNamespace(exposures=exposures)


def test_steps_are_counted_from_one_as_metrics_are(folder: Path) -> None:
    kind = learned([[0], [0, 2], [1], [], [2], [8]])
    ids = sorted(entry.sample.sample_id for step in (1, 2, 3, 9) for entry in found(folder, kind, step))
    assert [len(found(folder, kind, step)) for step in (1, 2, 3, 4, 9)] == [2, 1, 2, 0, 1]
    assert len(set(ids)) == 5  # one sample was in no step


def test_a_span_leads_to_the_sample(folder: Path) -> None:
    from data_pipelines.datasets.reader import CuratedDataset

    for entry in found(folder, learned([[0]] * 6), 1):
        stored = CuratedDataset(folder).read(entry.shard, entry.offset, entry.span_bytes)
        assert stored.sample.sample_id == entry.sample.sample_id


def test_what_cannot_be_said_is_an_error_with_a_way_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="'train' does not say which samples"):
        found(folder, None, 1)
    monkeypatch.setattr(step_samples, "MAX_ROWS", 3)
    with pytest.raises(RecipeError, match="illume trace SAMPLE"):
        found(folder, learned([[0]] * 6), 1)
