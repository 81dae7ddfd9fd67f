"""`illume events --actor`: who did what, in runs and to the store."""

import json
from pathlib import Path

import pytest

from orchestrator.actor import ACTOR_VARIABLE
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def test_every_change_names_who_made_it_how_and_why(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACTOR_VARIABLE, "alice")
    illume("run", "words.yaml", "--set", "stages.loud.gates.words.at_least=1", "--reason", "a first look")
    monkeypatch.setenv(ACTOR_VARIABLE, "bob")
    assert illume("pin", "last:loud", "--reason", "for the paper").code == 0
    illume("pin", "last:loud", "--remove")
    illume("takedown", "plan", "no-such-sample", "--id", "T1")
    illume("takedown", "apply", "T1.takedown.json", "--reason", "asked by letter")
    of_bob = [json.loads(line) for line in illume("events", "--actor", "bob", "--json").out.splitlines()]
    assert [(line["what"], line["actor"]["reason"]) for line in of_bob] == [
        ("pin", "for the paper"),
        ("unpin", ""),
        ("takedown", "asked by letter"),
    ]
    assert of_bob[2]["subjects"] == ["T1"]
    assert of_bob[0]["actor"]["command"] == "illume pin last:loud --reason 'for the paper'"
    of_alice = illume("events", "--actor", "ali*").out.splitlines()
    assert any("gate_override: stages.loud.gates.words.at_least=1" in line for line in of_alice)
    states = [line.split()[2:4] for line in of_alice]
    assert ["run_state", "RUNNING:"] in states
    assert ["attempt_state", "COMMITTED:"] in states
    assert all("reason: a first look" in line for line in of_alice)
    of_run = illume("events", "last", "--actor", "*", "--json").out.splitlines()
    assert {json.loads(line)["name"] for line in of_run} == {"alice"}


def test_actors_outlive_the_database(illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACTOR_VARIABLE, "alice")
    illume("run", "words.yaml")
    before = illume("events", "--actor", "alice", "--json").out
    (tmp_path / ".illume" / "index.db").unlink()
    assert illume("index", "rebuild").code == 0
    assert illume("events", "--actor", "alice", "--json").out == before
