"""Faults made on purpose in a training of three processes: what is said about them, and that it is in time."""

import json
from pathlib import Path

import pytest

from stages.training.watching.verification import CorruptWorkerError
from tests.stages.training.watching.faults import (
    CORRUPT,
    CORRUPT_STEP,
    HUNG,
    SLOW,
    SPIKE_STEP,
    Outcome,
    hang,
    train_with,
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A slow worker, a spike, and then a worker that computes wrong, in one training."""
    return train_with(("slow", "spike", "corrupt"), tmp_path_factory.mktemp("faults"))


def test_a_slow_worker_is_named_with_its_times(outcome: Outcome) -> None:
    _, fields = outcome.first("slow_worker")
    assert (fields["worker"], fields["step"]) == (SLOW, 8)  # two comparisons of four steps
    assert fields["own_step_s"] > 0.05 > fields["median_s"]
    assert outcome.first("node_offence")[1]["certain"] is False


def test_a_spike_is_described_by_its_samples_sources_parts_and_files(outcome: Outcome) -> None:
    _, fields = outcome.first("loss_spike")
    assert (fields["step"], fields["data_step"]) == (SPIKE_STEP, SPIKE_STEP)
    assert fields["loss_z"] > 50
    culprit = f"sample-{SPIKE_STEP}-2-3"
    assert fields["samples"][0] == culprit
    folder = Path(fields["folder"])
    report = json.loads((folder / "spike.json").read_text())
    assert report["samples"][0]["samples"] == [culprit]
    assert report["samples"][0]["worker"] == 2
    assert report["samples"][0]["source"] == "odd rows"
    assert report["samples"][0]["losses"]["squared"] > 1000
    assert report["num_samples"] == 13
    assert sum(norm**2 for norm in report["gradient_norms"].values()) == pytest.approx(report["grad_norm"] ** 2)
    assert (folder / f"{culprit}.txt").read_text() == f"step {SPIKE_STEP}"
    assert len(list(folder.iterdir())) == 1 + 8


def test_a_worker_that_computes_wrong_is_named_and_ends_the_attempt(outcome: Outcome) -> None:
    assert isinstance(outcome.error, CorruptWorkerError)
    assert f"worker {CORRUPT} on " in str(outcome.error)
    assert "the same step gave other losses or gradients" in str(outcome.error)
    _, fields = outcome.first("corrupt_worker")
    assert fields["workers"] == [CORRUPT]
    assert CORRUPT_STEP <= fields["step"] <= CORRUPT_STEP + 8
    kept = outcome.context.checkpoints.latest()
    assert kept is not None
    assert kept.step >= CORRUPT_STEP - 5  # no committed step is lost


def test_all_figures_are_metrics(outcome: Outcome) -> None:
    seen = {name for _, metrics in outcome.context.tracker.metrics for name in metrics}
    assert {
        "tokens_per_s",
        "padding_share",
        "mfu",
        "data_wait_s",
        "memory_gib",
        "fit/loss_of/even rows",
        "fit/loss_of/odd rows",
        "workers/own_step_s_median",
        "workers/own_step_s_slowest",
        "workers/memory_gib_most",
        "system/cpu_utilization_percentage",
    } <= seen
    _, first = outcome.context.tracker.metrics[0]
    assert first["padding_share"] == pytest.approx(0.1)


def test_of_a_training_that_hangs_the_worker_that_does_not_wait_is_named(tmp_path: Path) -> None:
    suspected, hung, fields = hang(tmp_path)
    for text in (suspected, hung):
        assert f"worker {HUNG} on " in text
        assert "wait_for_ever (faults.py:" in text
        assert "workers 0, 2 (wait for others)" in text
    assert fields["workers"] == [HUNG]
