"""Curves of trainings: small, complete, and read once."""

import math
from typing import Any

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.history.events import Event
from orchestrator.history.telemetry import Telemetry
from orchestrator.web import curves
from orchestrator.web.curves import MAX_BUCKETS, Curve, Curves, TrainingCurves
from tests.orchestrator.web.conftest import MadeUp


def points(sequence: int, found: list[list[Any]], attempt: str = "a1") -> Event:
    return Event(
        run_id="r", sequence=sequence, time=0.0, epoch=1, kind="metrics", fields={"points": found}, stage_id="s",
        attempt_id=attempt,
    )  # fmt: skip


def test_a_short_curve_keeps_every_step() -> None:
    curve = Curve()
    for step in range(100):
        curve.add(step, float(step))
    samples = curve.samples()
    assert samples.steps == tuple(range(100))
    assert samples.means == samples.lows == samples.highs


def test_a_long_curve_stays_small_and_loses_no_spike() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(step, 1000.0 if step == 77_777 else 1.0)
    samples = curve.samples()
    assert MAX_BUCKETS / 2 <= len(samples.steps) <= MAX_BUCKETS
    assert max(samples.highs) == 1000.0
    (spike,) = [step for step, high in zip(samples.steps, samples.highs, strict=True) if high == 1000.0]
    assert spike <= 77_777 < spike + curve.width
    assert math.isclose(samples.means[0], 1.0)


def test_a_step_that_was_repeated_after_a_restart_counts_once() -> None:
    curve = Curve()
    for value in (5.0, 3.0):
        curve.add(7, value)
    assert curve.samples().means == (3.0,)


def test_what_is_no_number_is_the_last_value_and_no_point() -> None:
    curve = Curve()
    curve.add(1, 2.0)
    curve.add(2, math.nan)
    assert curve.samples().steps == (1,)
    assert math.isnan(curve.samples().last)


def test_checkpoints_restarts_skips_and_spikes_are_marked() -> None:
    found = TrainingCurves()
    found.take(points(1, [["loss", 2.0, 10, 0.0], ["checkpoint_stall_s", 0.5, 10, 0.0]]))
    found.take(points(2, [["loss", 2.0, 8, 0.0], ["data_steps_skipped", 0, 8, 0.0]], attempt="a2"))
    found.take(points(3, [["data_steps_skipped", 4, 12, 0.0]], attempt="a2"))
    spike = {"step": 13, "message": "loss 80 is 40 deviations above the median"}
    found.take(Event(run_id="r", sequence=4, time=0.0, epoch=1, kind="loss_spike", fields=spike, stage_id="s"))
    marks = [(mark.kind, mark.step) for mark in found.marks]
    assert marks == [("checkpoint", 10), ("restart", 8), ("skip", 12), ("loss_spike", 13)]


def test_a_long_history_is_read_over_several_requests_and_never_again(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.start("r1")
    made_up.attempt("r1", "model")
    telemetry = Telemetry(made_up.workspace.database)
    tracker = telemetry.tracker(AttemptId.of("r1", "model", epoch=made_up.leases["r1"].epoch, number=1))
    for step in range(70):
        tracker.log_metrics({"loss": 1.0}, step=step)
        if step % 10 == 9:
            telemetry.flush()
    telemetry.close()
    monkeypatch.setattr(curves, "EVENTS_PER_READ", 2)
    monkeypatch.setattr(curves, "POINTS_PER_REQUEST", 30)
    looked = Curves()
    lengths, complete = [], []
    for _ in range(4):
        samples, _, is_complete = looked.look(made_up.workspace.database, "r1", "model")
        lengths.append(len(samples["loss"].steps))
        complete.append(is_complete)
    assert lengths == [40, 70, 70, 70]
    assert complete == [False, False, True, True]  # 7 events: 4, 3 with as many points as one request reads, none
