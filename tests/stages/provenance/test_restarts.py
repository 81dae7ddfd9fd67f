"""Which checkpoint of a training is clean."""

from types import SimpleNamespace
from typing import Any

import pytest

from stages.provenance.restarts import newest_clean
from stages.provenance.trace import CheckpointExposure, Trace

SEEN = {10: False, 20: False, 30: True, 40: True}


@pytest.mark.parametrize(
    ("seen", "start", "unknown", "step"),
    [
        (SEEN, "base", (), 20),
        ({10: False, 20: False}, "base", (), 20),  # not finished, and it has seen none of it yet
        ({30: True}, "base", (), None),  # none is clean
        ({}, "base", (), None),  # none is kept
        (SEEN, "tainted", (), None),  # the model that it began with saw it itself
        (SEEN, "base", ("mllm",), None),  # what cannot be told is not clean
    ],
)
def test_the_newest_checkpoint_before_the_first_exposure_is_clean_if_all_that_it_was_made_from_is(
    seen: dict[int, bool], start: str, unknown: tuple[str, ...], step: int | None
) -> None:
    stage: Any = SimpleNamespace(id="mllm", payload={"inputs": {"datasets": ["data"], "start": [start]}})
    checkpoints = [CheckpointExposure(stage="mllm", step=step, saw=saw) for step, saw in seen.items()]
    others = [CheckpointExposure(stage="another", step=90, saw=False)]
    trace = Trace(checkpoints=[*checkpoints, *others], unknown=list(unknown))
    assert newest_clean(stage, trace, {"tainted"}) == step
