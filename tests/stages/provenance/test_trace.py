"""What is printed about checkpoints and unanswered questions; models whose data are gone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import Match
from orchestrator.artifacts.takedowns import TaintedArtifact, Takedown, put_takedown
from orchestrator.commands.trace import trace_text
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import Plan
from stages.provenance.trace import (
    CheckpointExposure,
    Exposure,
    Trace,
    _classify_models,
    _is_cleared,
    judge_by_records,
    trace_run,
)
from tests.orchestrator.conftest import MemoryStore

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


def takedown(name: str, *, why: str = "", cleared: str = "", examined: str = "") -> Takedown:
    """A takedown that found `why` about the model "m"; or that cleared, or examined, a model."""
    tainted = TaintedArtifact(
        stage_kind="train", fingerprint="m", kind="model@1", why=why, is_kept=True, manifest_sha256="s", bytes=1,
        run_id="r", stage_id="mllm", attempt_id="a",
    )  # fmt: skip
    return Takedown(
        id=name, note="", created="2026-01-01T00:00:00Z", content={}, tainted=(tainted,) if why else (),
        cleared=frozenset({cleared} if cleared else ()), examined=frozenset({examined} if examined else ()),
    )  # fmt: skip


SAW = takedown("T1", why="saw it in 3 steps, first in step 7")
UNSURE = takedown("T2", why="cannot be shown clean: no plan names it any more")


@pytest.mark.parametrize(
    ("naming", "known", "verdict", "text"),
    [
        ([[SAW]], (), "saw", "saw it in 3 steps, first in step 7, as takedown T1 found"),
        ([[UNSURE]], (), "unknown", "cannot be shown clean: no plan names it any more"),
        ([[UNSURE, SAW]], (), "saw", "saw it in 3 steps, first in step 7, as takedown T1 found"),
        ([[takedown("T3", cleared="m")]], (), "clean", "shown to be clean by takedown T3"),
        ([[takedown("T3", examined="m")]], (), "clean", "shown to be clean by takedown T3"),
        ([[takedown("T3")]], ("T3",), "clean", "shown to be clean by takedown T3"),  # made without that content
        ([[takedown("T3", cleared="m")], [takedown("T4")]], (), "unknown", ""),  # T4 says nothing about it
        ([], (), "unknown", ""),
    ],
)
def test_a_model_whose_data_are_gone_is_judged_by_what_takedowns_found_before(
    naming: list[list[Takedown]], known: tuple[str, ...], verdict: str, text: str
) -> None:
    questions = [f"question {number}" for number in range(max(1, len(naming)))]
    trace = Trace(asked=len(questions), unanswered=questions)
    stage: Any = SimpleNamespace(id="mllm", fingerprint="m")
    judge_by_records(stage, trace, naming, known)
    found = "saw" if trace.saw else "unknown" if trace.unknown else "clean"
    assert found == verdict
    assert {**trace.recorded, **trace.problems}.get("mllm", "") == text


def model(name: str, *inputs: str, is_model: bool = True) -> Any:
    learned = SimpleNamespace(is_model=is_model)
    return SimpleNamespace(id=name, spec=SimpleNamespace(kind=SimpleNamespace(learned=learned), inputs={"in": inputs}))


def test_a_model_has_seen_what_the_models_saw_that_it_was_made_from() -> None:
    stages = (
        model("tokenizer"),
        model("tokens", "tokenizer", is_model=False),
        model("mllm", "tokenizer"),  # by its input alone
        model("decoder"),
        model("running"),  # has checkpoints, and no artifact yet
        model("untold"),
        model("planned"),
    )
    made = {"tokenizer", "tokens", "mllm", "decoder", "untold"}
    artifacts: Any = SimpleNamespace(has_artifact=lambda stage: stage.id in made)
    trace = Trace(exposures=[Exposure(stage="tokenizer", sample_id="a", steps=(3,))], unknown=["untold"])
    trace.exposures.append(Exposure(stage="running", sample_id="a", steps=(25,)))
    checkpoints = {
        "tokenizer": {2: False, 1: False, 4: True},
        "mllm": {5: False},
        "decoder": {6: False},
        "running": {30: True},
    }
    plan: Any = SimpleNamespace(stages=stages)
    _classify_models(artifacts, plan, trace, checkpoints)
    assert (trace.saw, trace.clean) == (["tokenizer", "mllm"], ["decoder"])
    assert trace.newest_clean == {"tokenizer": 2, "mllm": None, "running": None}
    assert [(found.stage, found.step, found.saw) for found in trace.checkpoints] == [
        ("tokenizer", 2, False),
        ("tokenizer", 1, False),
        ("tokenizer", 4, True),
        ("mllm", 5, True),
        ("decoder", 6, False),
        ("running", 30, True),
    ]


def test_a_training_is_cleared_by_takedowns_of_all_the_samples_that_match() -> None:
    stage: Any = SimpleNamespace(fingerprint="m")

    def clearing(digest: str, fingerprint: str = "m") -> Takedown:
        return replace(takedown("T", cleared=fingerprint), content={"digests": frozenset({digest})})

    matches = {"curated": [KEPT], "other": [replace(KEPT, sample_id="b" * 64)]}
    both = [clearing("a" * 64), clearing("b" * 64)]
    assert _is_cleared(stage, matches, both)
    assert not _is_cleared(stage, matches, both[:1])
    assert not _is_cleared(stage, matches, [both[0], clearing("b" * 64, "another model")])
    assert not _is_cleared(stage, {}, [])


def test_what_was_taken_down_is_said_even_where_there_is_no_dataset() -> None:
    store = MemoryStore()
    known = Takedown(id="T1", note="", created="2026-01-01T00:00:00Z", content={"digests": frozenset({"a" * 64})})
    put_takedown(store, known)
    workspace: Any = SimpleNamespace(store=store, artifacts=None, root=Path())
    plan = Plan(recipe="photos", stages=())
    found = trace_run(workspace, plan, Questions(digests={"a" * 64}))
    assert found.taken_down == {"a" * 64: known.signature}
    with pytest.raises(RecipeError, match="there is no curated dataset yet"):
        trace_run(workspace, plan, Questions(digests={"b" * 64}))
