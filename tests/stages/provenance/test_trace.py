"""What is printed about checkpoints and unanswered questions."""

from data_pipelines.provenance.sample_search import Match
from orchestrator.commands.trace import trace_text
from stages.provenance.trace import CheckpointExposure, Exposure, Trace

KEPT = Match(
    sample_id="a" * 64, external_id=None, found_by="image", source="web", source_file="a.jsonl", source_row=5,
    verdict="keep", reason=None, duplicate_of=None, shard="s", row=4, images=(),
)  # fmt: skip


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
        taken_down={"gone": "taken down by T1 on 2026-05-04 10:30 UTC"},
    )
    text = trace_text(trace)
    assert "1 of 3 questions answered\nnot found:\n  nobody\n  gone, taken down by T1 on 2026-05-04 10:30 UTC\n" in text
    assert (
        "  checkpoints that saw it: 30\n  checkpoints that did not see it: 10, 20\n  newest clean checkpoint: step 20"
        in text
    )
    assert "mllm: saw 1 sample in 15 of 40 steps, first in step 25, last in step 39" in text
    assert "keep, shard s, row 4; by image\n" in text
    assert text.endswith("models that saw it: mllm\nmodels that did not see it: none")
