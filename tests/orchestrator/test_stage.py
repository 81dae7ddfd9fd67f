from collections.abc import Callable

import pytest

from orchestrator.stage import Gate, ModelVersion, Resources, RetryPolicy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resources(workers=0), "workers: found 0, expected at least 1"),
        (lambda: Resources(workers=2, min_workers=3), r"min_workers: found 3, expected 0 to workers \(2\)"),
        (lambda: Resources(gpus=-1.0), "cannot be negative"),
        (lambda: RetryPolicy(attempts=0), "attempts: found 0, expected at least 1"),
        (lambda: RetryPolicy(hang_after_s=0.0), "hang_after_s must be more than 0"),
        (lambda: RetryPolicy(max_quarantined_share=1.5), "found 1.5, expected 0 to 1"),
        (lambda: RetryPolicy(checkpoint_every=-1), "cannot be negative"),
        (lambda: Gate(), "found no bound, expected at_least or at_most"),
        (lambda: ModelVersion(name="m", alias="latest"), "'latest'; expected letters"),
        (lambda: ModelVersion(name="m", alias="V12"), "'V12'; expected letters"),
        (lambda: ModelVersion(name="m", alias=""), "''; expected letters"),
        (lambda: ModelVersion(name="m", alias="größe"), "expected letters"),
    ],
)
def test_values_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_values_at_the_limits_are_accepted() -> None:
    Resources(workers=1, min_workers=1, cpus=0.0)
    RetryPolicy(attempts=1, wait_s=0.0, max_quarantined_share=1.0)
    Gate(at_most=0.0)
    ModelVersion(name="m", alias="v1-best")
