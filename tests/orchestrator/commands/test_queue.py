"""`illume queue`, `priority`, `approve`, and `index rebuild` of a queue."""

import sqlite3
from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import RECIPE, Illume

illume = test_cli.illume


def submitted(illume: Illume, text: str, *arguments: str) -> str:
    found: str = illume("submit", "words.yaml", "--set", f"stages.said.config.text={text}", *arguments, "--json").data[
        "run_id"
    ]
    return found


def order(illume: Illume) -> list[str]:
    return [entry["run_id"] for entry in illume("queue", "--json").data["entries"]]


def test_a_changed_priority_changes_the_order_and_a_rebuilt_index_restores_it(illume: Illume, tmp_path: Path) -> None:
    first, second, third = (submitted(illume, text) for text in ("a", "b", "c"))
    assert order(illume) == [first, second, third]
    assert illume("priority", third, "2").out == f"run {third}: priority 2\n"
    assert illume("priority", second, "--", "-1").code == 0
    assert order(illume) == [third, first, second]
    before = illume("queue", "--json").data
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    assert order(illume) == []
    assert illume("index", "rebuild", "--json").data["queue_records"] == 5
    assert illume("queue", "--json").data == before


def test_what_only_the_store_knows_is_in_the_queue(illume: Illume, tmp_path: Path) -> None:
    """A submit that dies after it wrote the record."""
    run_id = submitted(illume, "a")
    with sqlite3.connect(tmp_path / ".illume/index.db") as connection:
        connection.execute("delete from queue_records")
    assert order(illume) == [run_id]


def test_only_runs_in_the_queue_have_a_priority(illume: Illume) -> None:
    run_id = submitted(illume, "a")
    illume("cancel", run_id)
    answer = illume("priority", run_id, "3")
    assert answer.code == 2
    assert f"run {run_id}: is CANCELLED and not in the queue" in answer.err


def test_people_see_the_queue_as_a_table(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run_id = submitted(illume, "a", "--priority", "4")
    head, row = illume("queue").out.splitlines()
    assert head.split() == ["run", "recipe", "who", "priority", "state", "waits", "for", "expected", "in"]
    assert row.split()[:3] == ["1", run_id, "words"]


def test_a_stage_waits_for_the_word_of_a_person(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: true"))
    run_id = submitted(illume, "a")
    refused = illume("approve", f"{run_id}:nosuch", "--note", "fine")
    assert refused.code == 2
    assert illume("approve", run_id, "--note", "fine").code == 2
    assert f"{run_id}:loud: approved by " in illume("approve", f"{run_id}:loud", "--note", "looks right").out
    assert illume("resume", run_id).code == 0


def test_approval_is_true_or_false(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: ask"))
    answer = illume("plan", "words.yaml")
    assert answer.code == 2
    assert "stages.loud.approval: found 'ask' (text), expected true or false" in answer.err
