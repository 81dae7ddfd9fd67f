"""`illume logs` and `illume events`: filters, following, JSON."""

import json
from pathlib import Path

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def test_logs_are_filtered_by_stage_time_and_text(illume: Illume) -> None:
    illume("run", "words.yaml")
    everything = illume("logs")
    assert everything.out.count("==> ") == 3
    assert all(line.startswith(("==> ", "20")) for line in everything.out.splitlines())
    assert illume("logs", "--stage", "loud").out == illume("logs", "last:loud").out
    assert "==> loud-1-1.log" in illume("logs", "--stage", "loud", "--stage", "pair").out
    assert illume("logs", "--since", "1h").out == everything.out
    committed = illume("logs", "--grep", "is committed").out.splitlines()
    assert len(committed) == 6  # three headings, three lines
    late = illume("logs", "--since", "2999-01-01T00:00:00Z", "--stage", "loud")
    assert (late.out, late.code) == ("", 0)
    assert "no lines in its logs of loud" in late.err


def test_mistakes_in_filters_are_named(illume: Illume) -> None:
    illume("run", "words.yaml")
    for arguments, said in {
        ("--stage", "lout"): "found no stage 'lout'; ",
        ("--since", "yesterday"): "found 'yesterday', expected 10m, 2h, 1d",
        ("--grep", "("): "found '(', expected a regular expression: ",
    }.items():
        for command in ("logs", "events"):
            answer = illume(command, *arguments)
            assert answer.code == 2
            assert said in answer.err


def test_logs_as_json_are_one_line_each_in_the_order_of_time(illume: Illume) -> None:
    illume("run", "words.yaml")
    lines = [json.loads(line) for line in illume("logs", "--json").out.splitlines()]
    assert {line["log"] for line in lines} == {"said-1-1.log", "loud-1-1.log", "pair-1-1.log"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert all(line["format"] == 1 and line["time"].endswith("Z") for line in lines)


def test_following_shows_lines_as_they_come_and_ends_with_the_run(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    answer = illume("logs", "-f", "--stage", "loud", "-n", "1")
    assert answer.code == 0
    assert [line.split("  ")[0] for line in answer.out.splitlines()] == ["loud-1-1"]
    assert "is committed" in answer.out


def test_events_are_filtered_too(illume: Illume) -> None:
    illume("run", "words.yaml")
    loud = illume("events", "--stage", "loud").out.splitlines()
    assert loud
    assert all(" loud " in line for line in loud)
    assert illume("events", "--grep", "COMMITTED").out.count("\n") == 3
    assert illume("events", "--since", "2999-01-01").out == ""


def test_a_line_is_in_the_log_once_although_the_terminal_shows_it_too(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    illume("-v", "run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    lines = illume("logs", "last:loud").out.splitlines()
    assert sorted(set(lines)) == sorted(lines)
    assert any("out of breath" in line for line in lines)
