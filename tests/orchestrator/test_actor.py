"""Who acts: the user of the process, the environment, or whom a service acts for."""

import pytest

from orchestrator.actor import ACTOR_VARIABLE, Actor, acting_as, current_actor, set_command, set_reason


def test_the_environment_names_the_actor_and_a_service_acts_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACTOR_VARIABLE, raising=False)
    set_command(["illume", "gc", "--delete"])
    set_reason(" the disk is full ")
    person = current_actor()
    assert person.name == f"{person.user}@{person.host}"
    assert (person.command, person.reason) == (("illume", "gc", "--delete"), "the disk is full")
    monkeypatch.setenv(ACTOR_VARIABLE, "nightly")
    assert current_actor().name == "nightly"
    with acting_as(Actor(user="www", host="front", token_name="alice")):
        assert current_actor().name == "alice"
    assert current_actor().name == "nightly"


def test_a_command_forgets_the_reason_of_the_one_before() -> None:
    set_reason("once")
    set_command(["illume", "status"])
    assert current_actor().reason == ""
