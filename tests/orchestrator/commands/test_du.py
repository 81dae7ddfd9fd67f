"""`illume du`: the space of stages, runs and records, of one run, and as JSON."""

from orchestrator.commands.shared.formatting import bytes_text
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def test_the_space_of_the_store_by_stage_and_run(illume: Illume) -> None:
    illume("run", "words.yaml")
    first = newest(illume)["run_id"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    found = illume("du", "--json").data
    assert found["bytes"] == sum(place["bytes"] for place in found["places"])
    made = {(place["stage_id"], place["run_id"]) for place in found["places"] if place["what"] == "artifact"}
    assert made == {(stage, run) for run in (first, newest(illume)["run_id"]) for stage in ("said", "loud", "pair")} - {
        ("said", newest(illume)["run_id"])
    }
    text = illume("du").out
    assert text.splitlines()[-1].startswith(f"{bytes_text(found['bytes'])} in {found['files']} files: ")
    assert ["words", "loud", "shout"] in [line.split()[:3] for line in text.splitlines()]


def test_the_space_of_one_run_is_that_of_its_artifacts(illume: Illume) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    stages = {place["stage_id"] for place in illume("du", "last", "--json").data["places"]}
    assert stages == {"said", "loud", "pair"}
    assert {place["stage_id"] for place in illume("du", "last:loud", "--json").data["places"]} == {"loud"}


def test_an_empty_store_takes_nothing(illume: Illume) -> None:
    assert illume("du").out == "nothing is stored yet\n"
