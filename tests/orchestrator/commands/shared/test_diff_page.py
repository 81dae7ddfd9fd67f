"""The page of two compared runs shows every difference, and values of any content stay text in it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from markupsafe import Markup

from orchestrator.artifact import Manifest
from orchestrator.commands.shared.diff_page import write_diff_page
from orchestrator.history.events import RunState
from orchestrator.history.run_status import RunSummary
from orchestrator.identity import Fingerprint
from orchestrator.reports.run_diff import Change, RunDiff, StageDiff
from orchestrator.reports.run_outputs import Output, RunOutputs, StageOutput
from tests.pages import ATTACKS, PAYLOADS, Page, assert_is_whole_page


def visible(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def side(text: str, metrics: dict[str, float]) -> StageOutput:
    planned: dict[str, Any] = {"fingerprint": "ab" * 32, "kind": text, "inputs": {}, "resources": {}}
    manifest = Manifest(
        kind="words@1", stage_kind=text, fingerprint=Fingerprint("ab" * 32), payload={}, files=(), metrics=metrics,
        provenance={"run": text},
    )  # fmt: skip
    output = Output(manifest=manifest, attempt_id="a1")
    return StageOutput(id=text, planned=planned, output=output, attempts=0, seconds=2.0, spent_s=0.0, made_here=False)


def run_of(text: str) -> RunOutputs:
    run = RunSummary(
        run_id=text, recipe=text, plan_digest="", state=RunState.SUCCEEDED, epoch=1, owner="", cancel_requested=False,
        message="", created_at=0.0, updated_at=0.0, last_event=0,
    )  # fmt: skip
    return RunOutputs(run=run, stages={})


def diff_of(text: str) -> RunDiff:
    """A difference of every kind, with the text in each place that comes from outside."""
    change = Change(place=text, before=text, after=text)
    before, after = side(text, {text: 1.0, "same": 2.0}), side(text, {text: 3.0, "same": 2.0})
    changed = StageDiff(
        id=text, state="changed", is_first=True, reasons=(text,), code=(text,), environment=(change,),
        outputs="different", before=before, after=after,
    )  # fmt: skip
    twice = StageDiff(id=text, state="same", outputs="different", files=(text,), before=before, after=after)
    added = StageDiff(id=text, state="added", after=after)
    return RunDiff(
        before=run_of(text), after=run_of(text), identity=(change,), execution=(change,), stages=(changed, twice, added)
    )


def page_of(diff: RunDiff, folder: Path, datasets: dict[str, str]) -> Page:
    write_diff_page(diff, datasets, folder / "page.html")
    return assert_is_whole_page((folder / "page.html").read_text(encoding="utf-8"))


@settings(max_examples=25, deadline=None)
@given(PAYLOADS)
@example("".join(ATTACKS))
def test_hostile_values_stay_text_wherever_they_stand(tmp_path_factory: pytest.TempPathFactory, payload: str) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    page = page_of(diff_of(payload), folder, {payload: payload})
    shown = visible(payload)
    assert f"{shown} and {shown}" in page.words  # the title
    assert f"Data of {shown}" in page.words
    assert page.words.count(shown) > 20
    assert "1 that do not differ" in page.words
    assert (page.tags.count("table"), page.tags.count("details")) == (9, 2)


def test_the_markup_of_the_data_becomes_a_part_of_the_page(tmp_path: Path) -> None:
    part = Markup('<div class="tiles"><div class="tile"><b>3</b>added</div></div>')
    page = page_of(diff_of("words"), tmp_path, {"curated": part})
    assert ("class", "tile") in page.attributes
    assert "3added" in page.words


def test_what_does_not_differ_is_said(tmp_path: Path) -> None:
    diff = RunDiff(before=run_of("a"), after=run_of("b"), identity=(), execution=(), stages=())
    words = page_of(diff, tmp_path, {}).words
    for text in (
        "no value that decides the outputs differs", "nothing differs that both runs recorded", "no metric differs"
    ):  # fmt: skip
        assert text in words
    assert "Not part of any identity" not in words
