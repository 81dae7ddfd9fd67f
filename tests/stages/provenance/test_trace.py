"""Data steps and optimizer steps in a trace, and what is printed about checkpoints."""

import numpy as np
import pytest

from data_pipelines.provenance.sample_search import Match
from orchestrator.commands.trace import trace_text
from stages.provenance.trace import CheckpointExposure, Exposure, Trace, _optimizer_steps, _saw_any
from stages.training.checkpoint_files import Progress, Skip

KEPT = Match(
    sample_id="a" * 64, external_id=None, found_by="picture", source="web", source_file="a.jsonl", source_row=5,
    verdict="keep", reason=None, duplicate_of=None, shard="s", row=4, images=(),
)  # fmt: skip


def test_skipped_data_steps_belong_to_no_optimizer_step() -> None:
    progress = Progress(step=10, skips=(Skip(at=3, count=2),))
    assert _optimizer_steps(np.array([5, 2, 3, 4, 5]), progress).tolist() == [3, 2, -1, -1, 3]
    assert _optimizer_steps(np.zeros(0, dtype=np.int64), progress).tolist() == []


@pytest.mark.parametrize(("step", "seen"), [(3, False), (4, True), (9, True)])
def test_a_checkpoint_has_seen_the_steps_before_its_own(step: int, seen: bool) -> None:
    assert _saw_any(np.array([3]), Progress(step=step), step) is seen
    assert not _saw_any(np.array([3]), Progress(step=step, skips=(Skip(at=3, count=1),)), step)


def test_the_text_names_the_newest_clean_checkpoint_and_unanswered_questions() -> None:
    trace = Trace(
        exposures=[Exposure(stage="mllm", sample_id="a" * 64, steps=tuple(range(25, 40)))],
        checkpoints=[CheckpointExposure(stage="mllm", step=step, saw=step > 25) for step in (10, 20, 30)],
        newest_clean={"mllm": 20},
        steps={"mllm": 40},
        matches={"curated": [KEPT]},
        saw=["mllm"],
        asked=3,
        unanswered=["nobody", "gone"],
        taken_down={"gone": "T1"},
    )
    text = trace_text(trace)
    assert "1 of 3 questions answered\nnot found:\n  nobody\n  gone, taken down by T1\n" in text
    assert (
        "  checkpoints that saw it: 30\n  checkpoints that did not see it: 10, 20\n  newest clean checkpoint: step 20"
        in text
    )
    assert "mllm: saw 1 sample in 15 of 40 steps, first in step 25, last in step 39" in text
    assert "keep, shard s, row 4; by picture\n" in text
    assert text.endswith("models that saw it: mllm\nmodels that did not see it: none")
