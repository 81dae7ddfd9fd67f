"""Targets RUN and RUN:STAGE: each way to name a run, and the message for each mistake."""

from typing import Any

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def stages_of(illume: Illume, target: str) -> list[str]:
    status: dict[str, Any] = illume("status", target, "--json").data
    return [stage["stage_id"] for stage in status["stages"]]


def test_a_run_has_an_id_a_prefix_a_recipe_and_may_be_the_last(illume: Illume) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    run = newest(illume)["run_id"]
    for name in (run, run[:-1], "words", "last"):
        assert illume("status", name, "--json").data["run"]["run_id"] == run
        assert stages_of(illume, f"{name}:loud") == ["loud"]
    assert stages_of(illume, "last") == ["said", "loud", "pair"]


def test_the_name_of_a_recipe_comes_before_the_prefix_of_an_id(illume: Illume) -> None:
    illume("run", "words.yaml")
    first = newest(illume)["run_id"]
    with open("words.yaml") as file:
        text = file.read()
    with open("other.yaml", "w") as file:
        file.write(text.replace("name: words", f"name: '{first[:4]}'").replace("hello", "bye"))
    illume("run", "other.yaml")
    assert illume("status", first[:4], "--json").data["run"]["recipe"] == first[:4]
    assert illume("status", first, "--json").data["run"]["recipe"] == "words"


def test_events_and_logs_of_one_stage(illume: Illume) -> None:
    illume("run", "words.yaml")
    events = illume("events", "last:loud", "--json").out.splitlines()
    assert events
    assert all('"loud"' in line for line in events)
    assert illume("logs", "last:loud").out.count("==> ") == 1
    assert illume("logs", "last").out.count("==> ") == 3


MISTAKES = {
    "status wods": "found no run 'wods'; did you mean 'words'?",
    "status loud": "the newest run has a stage of this name: 'last:loud'",
    "status last:lod": "found no stage 'lod'; did you mean 'loud'?",
    "status :loud": "'last:loud' is the stage of the newest run",
    "status 2": "found 2 whose ids begin so; give more of the id",
    "logs words loud": "write it as `illume logs words:loud`",
    "explain words loud": "write it as `illume explain words:loud`",
    "explain words:loud pair": "found 'pair' after the target, expected one target RUN:STAGE",
    "resume words:loud": "'words:loud': found a stage, expected a run: 'words'",
    "diff last:loud last": "'last:loud': found a stage, expected a run: 'last'",
    "pin words": "stages of this run: words:said, words:loud, words:pair",
    "audit loud": "did you mean 'last:loud'?",
    "lineage nothing": "expected RUN:STAGE, or at least 4 digits of an identity",
    "verify absent:loud": "found no run 'absent'",
}


def test_a_wrong_target_gets_one_line_and_exit_code_2(illume: Illume) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    for command, message in MISTAKES.items():
        answer = illume(*command.split())
        assert (answer.code, answer.out) == (2, ""), command
        assert message in answer.err.strip().splitlines()[-1], command
