"""`illume diff` and what `illume lineage` prints for other programs, with small stages that need no Ray."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.stage import StageContext, StageKind
from tests.data_pipelines.audit.test_diff import hand_made
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import RECIPE, Illume, SayConfig, newest

illume = test_cli.illume
THREE = ("--set", "stages.loud.config.times=3")


def run(illume: Illume, *arguments: str) -> str:
    answer = illume("run", "words.yaml", *arguments)
    assert answer.code == 0, answer.err
    return str(newest(illume)["run_id"])


def compared(illume: Illume, before: str, after: str) -> dict[str, Any]:
    found: dict[str, Any] = illume("diff", before, after, "--json").data
    found["by_id"] = {stage["id"]: stage for stage in found["stages"]}
    return found


def test_a_changed_value_is_found_with_the_first_stage_that_it_changes(illume: Illume) -> None:
    before, after = run(illume), run(illume, *THREE)
    found = compared(illume, before, after)
    change = {"place": "stages.loud.config.times", "before": "2", "after": "3"}
    assert found["recipe"] == {"added": [], "removed": [], "identity": [change], "execution": []}
    assert found["first"] == ["loud"]
    states = {name: (stage["state"], stage["outputs"]) for name, stage in found["by_id"].items()}
    assert states == {
        "said": ("same", "one artifact"), "loud": ("changed", "different"), "pair": ("changed", "different")
    }  # fmt: skip
    assert found["by_id"]["loud"]["reasons"] == ["config.times: 2 -> 3"]
    assert found["by_id"]["pair"]["reasons"] == ["input words: +1 -1 artifacts"]
    assert found["by_id"]["loud"]["metrics"] == {"words": [2.0, 3.0]}
    said = found["by_id"]["said"]
    assert (said["before"]["made_here"], said["after"]["made_here"], said["after"]["attempts"]) == (True, False, 0)
    assert said["after"]["seconds"] == said["before"]["seconds"]
    text = illume("diff", before, after).out
    assert "stages.loud.config.times: 2 -> 3" in text
    assert "made from these, so they also differ: pair" in text
    assert re.search(rf"said .* \| +reused \([0-9.]+ s in run {before}\)", text)
    assert "+1 (+50.0%)" in text


def test_execution_settings_are_separated_from_identity(illume: Illume) -> None:
    before, after = (
        run(illume),
        run(illume, "--set", "stages.said.config.text=ho", "--set", "stages.said.retry.attempts=5"),
    )
    found = compared(illume, before, after)["recipe"]
    assert [change["place"] for change in found["identity"]] == ["stages.said.config.text"]
    assert found["execution"] == [{"place": "stages.said.retry.attempts", "before": "3", "after": "5"}]
    assert "not part of any identity:\n    stages.said.retry.attempts: 3 -> 5" in illume("diff", before, after).out


def test_stages_that_only_one_run_has_and_other_wiring_are_named(illume: Illume, tmp_path: Path) -> None:
    before = run(illume)
    changed = RECIPE.replace("pair: {kind: shout, inputs: {words: loud}", "duo: {kind: shout, inputs: {words: said}")
    (tmp_path / "words.yaml").write_text(changed + "  end: {kind: shout, inputs: {words: duo}, config: {times: 1}}\n")
    after = run(illume)
    found = compared(illume, before, after)
    assert (found["recipe"]["added"], found["recipe"]["removed"]) == (["duo", "end"], ["pair"])
    assert found["first"] == ["duo", "pair"]
    text = illume("diff", before, after).out
    assert "only in A: pair (shout)" in text
    assert "only in B: duo (shout), end (shout)" in text


def test_equal_bytes_of_another_identity_are_reported_as_equal(illume: Illume, tmp_path: Path) -> None:
    before = run(illume)
    after = run(illume, "--set", "stages.pair.config.fault=nothing")
    assert compared(illume, before, after)["by_id"]["pair"]["outputs"] == "equal"
    assert "different identity, but the same files: pair" in illume("diff", before, after).out


def test_one_identity_with_two_results_is_reported(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))

    def say(_config: SayConfig, context: StageContext) -> dict[str, float]:
        (context.output / "words.txt").write_text(f"take {next(times)}")
        return {"words": 1.0, "loss": float("nan")}

    kind = StageKind(name="say", version=1, config=SayConfig, run=say, output="words@1")
    monkeypatch.setitem(test_cli.KINDS, "say", kind)
    before, after = run(illume), run(illume, "--force", "said")
    found = compared(illume, before, after)
    assert (found["first"], found["recipe"]["identity"]) == ([], [])
    assert found["by_id"]["said"]["outputs"] == "different"
    assert found["by_id"]["said"]["files"] == ["words.txt"]
    assert found["by_id"]["said"]["before"]["attempt"] != found["by_id"]["said"]["after"]["attempt"]
    text = illume("diff", before, after).out
    assert "nan" not in text  # the same on both sides
    assert "said: made twice with identity" in text
    assert "1 of 1 files differ: words.txt; the stage is not deterministic" in text


def test_a_run_with_itself_has_no_difference(illume: Illume) -> None:
    found = compared(illume, run(illume), "words")
    assert {stage["state"] for stage in found["stages"]} == {"same"}
    assert (found["first"], found["environment"], found["data"]) == ([], [], {})
    assert "none: every stage has one identity in both runs" in illume("diff", "words", "words").out


def test_a_retracted_output_is_unknown_and_no_error(illume: Illume) -> None:
    before, after = run(illume), run(illume, *THREE)
    illume("gc", "--unneeded-days", "0", "--older-than-h", "0", "--delete")
    loud = compared(illume, before, after)["by_id"]["loud"]
    assert (loud["outputs"], loud["code"], loud["before"]["attempt"]) == ("unknown", [], None)
    assert loud["reasons"] == ["config.times: 2 -> 3"]
    assert "reused" not in illume("diff", before, after).out.split("loud", 1)[0]


def test_a_stage_that_failed_counts_its_attempts(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("fail")
    trouble = ("--set", f"stages.pair.config.fault={tmp_path / 'trouble'}", "--set", "stages.pair.retry.wait_s=0.0")
    before = run(illume)
    assert illume("run", "words.yaml", *trouble).code == 1
    after = newest(illume)["run_id"]
    pair = compared(illume, before, after)["by_id"]["pair"]
    assert (pair["outputs"], pair["after"]["seconds"]) == ("unknown", None)
    assert pair["after"]["attempts"] >= 1
    assert pair["after"]["spent_s"] > 0
    assert f"not made ({pair['after']['attempts']} attempts)" in illume("diff", before, after).out


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    kept: int


def keep(config: KeepConfig, context: StageContext) -> dict[str, float]:
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9)]
    rows = [(one, "keep" if place < config.kept else "drop", "" if place < config.kept else "small")
            for place, one in enumerate(ids)]  # fmt: skip
    hand_made(context.output, [rows[:3], rows[3:]])
    return {"keep": float(config.kept)}


def test_records_of_datasets_are_compared_unless_disabled(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = StageKind(name="keep", version=1, config=KeepConfig, run=keep, output="dataset@1")
    monkeypatch.setitem(test_cli.KINDS, "keep", kind)
    (tmp_path / "words.yaml").write_text("name: data\nstages:\n  curated: {kind: keep, config: {kept: 8}}\n")
    before, after = run(illume), run(illume, "--set", "stages.curated.config.kept=5")
    found = compared(illume, before, after)["data"]["curated"]
    assert (found["added"], found["removed"], found["changed_verdict"], found["equal_shards"]) == (0, 0, 3, 1)
    assert [(change["before"], change["after"], change["records"]) for change in found["changes"]] == [
        ("keep", "drop: small", 3)
    ]
    answer = illume("diff", before, after, "--page", "page.html", "--examples", "2")
    assert "0 added, 0 removed, 3 with a changed verdict" in answer.out
    assert (tmp_path / "page.html").read_text().count("<figure>") == 2
    assert illume("diff", before, after, "--no-data", "--json").data["data"] == {}
    ledger = next((tmp_path / ".illume" / "store").rglob("ledger/s1.parquet"))
    ledger.chmod(0o644)
    ledger.write_bytes(b"x" * ledger.stat().st_size)
    answer = illume("diff", before, after)
    assert answer.code == 2
    assert "curated: " in answer.err
    assert "not a ledger that can be read" in answer.err


def test_the_page_is_self_contained_and_escapes_values(illume: Illume, tmp_path: Path) -> None:
    before = run(illume)
    after = run(illume, "--set", "stages.said.config.text=<script>alert(1)</script>")
    answer = illume("diff", before, after, "--page", "diff.html")
    assert "page with images: diff.html" in answer.out
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "(first that differs)" in page


def test_runs_that_do_not_exist_are_named(illume: Illume) -> None:
    run(illume)
    answer = illume("diff", "words", "wrods")
    assert answer.code == 2
    assert "found no run 'wrods'; did you mean 'words'?" in answer.err
