"""`illume takedown`: mistakes are named; applied takedowns are listed."""

import re
from pathlib import Path

import pytest

from orchestrator.actor import ACTOR_VARIABLE
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.commands.takedown import receipt_line
from stages.provenance.receipt import Receipt
from tests.orchestrator import test_cli
from tests.orchestrator.artifacts.test_takedowns import take_down
from tests.orchestrator.test_cli import Illume
from tests.pages import ATTACKS, assert_is_whole_page

illume = test_cli.illume


@pytest.mark.parametrize("content", ["", "[]", '{"state": "x"}'])
def test_a_file_that_is_not_a_takedown_is_refused(illume: Illume, content: str, tmp_path: Path) -> None:
    file = tmp_path / "t.takedown.json"
    file.write_text(content)
    answer = illume("takedown", "apply", str(file))
    assert answer.code == 2
    assert "t.takedown.json" in answer.err
    assert illume("takedown", "list").out == ""


def test_a_takedown_is_applied_once_and_only_while_its_plan_covers_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    planned = illume("takedown", "plan", "no-such-sample", "--id", "T1", "--json")
    assert planned.code == 0, planned.err
    assert planned.data["unanswered"] == ["no-such-sample"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    stale = illume("takedown", "apply", "T1.takedown.json")
    assert (stale.code, "plan it again with `illume takedown plan`" in stale.err) == (2, True)
    illume("takedown", "plan", "no-such-sample", "--id", "T1")
    applied = illume("takedown", "apply", "T1.takedown.json")
    assert "T1 is applied: 0 shards and 0 artifacts retracted, 0 models marked" in applied.out
    assert [takedown["id"] for takedown in illume("takedown", "list", "--json").data["takedowns"]] == ["T1"]
    again = illume("takedown", "plan", "no-such-sample", "--id", "T1")
    assert (again.code, "takedown 'T1' was already applied" in again.err) == (2, True)


def test_the_list_says_who_when_until_when_and_what_is_still_to_do(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACTOR_VARIABLE, "alice")
    illume("run", "words.yaml")
    illume("takedown", "plan", "nobody", "--id", "T0", "--note", "letter of May", "--due", "2031-02-03")
    illume("takedown", "apply", "T0.takedown.json")
    stages = {stage["id"]: stage for stage in illume("plan", "words.yaml", "--json").data["stages"]}
    take_down(tmp_path, "T1", stages["loud"])
    first, second = illume("takedown", "list").out.splitlines()
    assert re.fullmatch(
        r"T0 on 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ \(alice\)  0 tainted artifacts  "
        r"letter of May  due 2031-02-03  complete",
        first,
    )
    assert "1 tainted artifacts  no note  no day given  2 to do: 1 folders are not deleted" in second
    assert "recipe 'words' was not run again since" in second
    assert [known["complete"] for known in illume("takedown", "list", "--json").data["takedowns"]] == [True, False]
    illume("gc", "--delete")
    illume("run", "words.yaml")
    assert illume("takedown", "list").out.splitlines()[1].endswith("complete")


def test_a_takedown_that_is_late_says_so(illume: Illume) -> None:
    late = Receipt(
        takedown=Takedown(id="T1", note="", created="2026-01-01T00:00:00Z", content={}, due="2026-01-31"),
        valid_records=("record",), files=(), shards_found=0, successors=(), recipes_to_rerun=(),
    )  # fmt: skip
    assert "due 2026-01-31, LATE" in receipt_line(late, today="2026-02-01")
    assert "due 2026-01-31  1 to do" in receipt_line(late, today="2026-01-31")


def test_pages_of_a_plan_and_of_a_receipt_open_offline(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    hostile = "".join(ATTACKS[:6])
    answer = illume("takedown", "plan", "nobody", "--id", "T0", "--note", hostile, "--page", "plan.html")
    assert answer.code == 0, answer.err
    plan = assert_is_whole_page((tmp_path / "plan.html").read_text(encoding="utf-8"))
    assert "No row of any dataset matches" in plan.words
    assert "nobody" in plan.words
    illume("takedown", "apply", "T0.takedown.json")
    receipt = illume("takedown", "receipt", "T0", "-o", "receipt.json", "--page", "receipt.html")
    assert receipt.code == 0, receipt.err
    page = assert_is_whole_page((tmp_path / "receipt.html").read_text(encoding="utf-8"))
    assert "Complete. Everything that is listed here has been removed" in " ".join(page.words.split())
    assert "receipt.json" in page.words
