"""Data steps and optimizer steps of a training, and which of them consumed a sample."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.training.checkpoints.progress import Progress, Skip
from stages.training.config import LoopConfig
from stages.training.exposures import Integers, _FirstImages, _optimizer_steps, _saw_any, loop_exposures

LOOP = LoopConfig(steps=4, micro_batches_per_step=1, seed=0)
ALL = {"a" * 64: ("1" * 64,), "b" * 64: (), "c" * 64: ("1" * 64,)}


@dataclass(kw_only=True)
class Begun:
    """`learning.Training` with checkpoints only."""

    config: Any = None
    states: Mapping[int, Sequence[Skip]] = field(default_factory=dict)
    folder: Path | None = None
    first_step: int = 0

    def inputs(self, slot: str, only: Callable[[str], bool] | None = None) -> tuple[Path, ...]:
        raise AssertionError(f"{slot} is not read here")

    def output(self, only: Callable[[str], bool] | None = None) -> Path | None:
        return self.folder

    def checkpoint_files(self, name: str) -> Mapping[int, bytes]:
        return {
            step: json.dumps({"step": step, "skips": [vars(skip) for skip in skips]}).encode()
            for step, skips in self.states.items()
        }

    def index(self, make: Callable[[Path], object]) -> Path:
        raise AssertionError("no index is needed here")


def one_a_step(ids: Sequence[str], before: int) -> tuple[Integers, Integers]:
    """Sample 0 in data steps 0, 3, 6, ..., sample 1 in 1, 4, ..., sample 2 in 2, 5, ..."""
    steps = [np.arange(rank, before, 3) for rank in range(len(ids))]
    return np.repeat(np.arange(len(ids)), [len(found) for found in steps]), np.concatenate(steps)


def test_a_training_that_has_begun_answers_for_its_newest_checkpoint() -> None:
    begun = Begun(states={1: (), 4: ()})
    found = loop_exposures(begun, LOOP, ALL, one_a_step)
    assert found.num_steps == 4
    assert found.steps == {"a" * 64: [0, 3], "b" * 64: [1], "c" * 64: [2]}
    only_c = loop_exposures(begun, LOOP, {"c" * 64: ()}, lambda ids, before: (np.array([0]), np.array([2])))
    assert [only_c.is_in_checkpoint(step) for step in (1, 4)] == [False, True]
    assert loop_exposures(begun, LOOP, {}, one_a_step).checkpoints == {1: False, 4: False}
    assert loop_exposures(Begun(), LOOP, ALL, one_a_step).num_steps == 0


def test_a_skipped_window_was_consumed_by_nothing() -> None:
    begun = Begun(states={4: (Skip(at=1, count=2),)})
    assert loop_exposures(begun, LOOP, ALL, one_a_step).steps == {"a" * 64: [0, 1], "b" * 64: [2], "c" * 64: [3]}


def test_skipped_data_steps_belong_to_no_optimizer_step() -> None:
    progress = Progress(step=10, skips=(Skip(at=3, count=2),))
    assert _optimizer_steps(np.array([5, 2, 3, 4, 5]), progress).tolist() == [3, 2, -1, -1, 3]
    assert _optimizer_steps(np.zeros(0, dtype=np.int64), progress).tolist() == []


@pytest.mark.parametrize(("step", "seen"), [(3, False), (4, True), (9, True)])
def test_a_checkpoint_has_seen_the_steps_before_its_own(step: int, seen: bool) -> None:
    assert _saw_any(np.array([3]), Progress(step=step), step) is seen
    assert not _saw_any(np.array([3]), Progress(step=step, skips=(Skip(at=3, count=1),)), step)


def test_samples_that_share_their_first_image_were_consumed_with_it() -> None:
    images = _FirstImages(["a", "b", "c", "d"], {"a": ("x", "y"), "b": ("y",), "c": (), "d": ("x",)})
    assert images.digests == ["x", "y"]
    which, steps = images.owners(np.array([0, 0, 0, 1]), np.array([3, 3, 5, 4]))
    assert list(zip(which.tolist(), steps.tolist(), strict=True)) == [(0, 3), (0, 5), (1, 4), (3, 3), (3, 5)]
    nothing = np.zeros(0, dtype=np.int64)
    assert [found.tolist() for found in images.owners(nothing, nothing)] == [[], []]


def test_the_very_first_step_counts_and_a_skipped_one_does_not() -> None:
    first = np.array([0])
    assert [_saw_any(first, Progress(step=5), step) for step in (0, 1, 5)] == [False, True, True]
    assert not _saw_any(first, Progress(step=5, skips=(Skip(at=0, count=1),)), 5)
    assert not _saw_any(first, Progress(step=5), 5, first=1)
