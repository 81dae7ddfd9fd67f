from typing import Any

import pytest

from clusters.planner.measured import PEAK_SHARE, STALL, of_attempts
from orchestrator.history.measured import MeasuredAttempt

H100: dict[str, Any] = {"workers": 64, "strategy": "fsdp2", "device": "NVIDIA H100 80GB HBM3", "peak_tflops": 1000.0}


def attempt(run_id: str, share: float, *, stall_s: float | None = None, **fields: Any) -> MeasuredAttempt:
    metrics = {PEAK_SHARE: share, **({} if stall_s is None else {STALL: stall_s})}
    return MeasuredAttempt(run_id=run_id, metrics=metrics, fields={**H100, **fields})


def test_attempts_on_the_same_accelerator_are_counted_together() -> None:
    found = of_attempts(
        [
            attempt("r3", 0.4, stall_s=3.0, workers=32),
            attempt("r2", 0.5),
            attempt("r1", 0.3, stall_s=1.0),
            attempt("r0", 0.1, device="NVIDIA A100-SXM4-80GB"),
            attempt("r0", 0.1, strategy="ddp"),
        ]
    )
    assert found is not None
    assert (found.device, found.strategy, found.workers, found.run_id) == ("H100-SXM", "fsdp2", 32, "r3")
    assert (found.attempts, found.stall_s) == (3, 2.0)
    assert found.flops_per_s == pytest.approx((0.3e15, 0.4e15, 0.5e15))


def test_without_a_speed_nothing_is_known() -> None:
    assert of_attempts([]) is None
    assert of_attempts([attempt("r1", 0.4, peak_tflops=0.0, device="cpu")]) is None
    assert of_attempts([attempt("r1", 0.0)]) is None


def test_an_accelerator_that_the_table_does_not_have_keeps_its_name() -> None:
    found = of_attempts([attempt("r1", 0.4, device="Prototype 7")])
    assert found is not None
    assert found.device == "Prototype 7"
    assert found.stall_s is None
