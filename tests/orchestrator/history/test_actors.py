"""Actors in events and records, without secrets."""

import pytest

from orchestrator.actor import Actor
from orchestrator.history.actors import actor_of, actor_record, masked_command
from orchestrator.history.events import Event


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        (["illume", "run", "a b.yaml"], "illume run 'a b.yaml'"),
        (
            ["illume", "run", "--set", "stages.x.config.hf_token=hf_1"],
            "illume run --set 'stages.x.config.hf_token=***'",
        ),
        (["illume", "serve", "--password", "hunter2", "--port", "8"], "illume serve --password '***' --port 8"),
        (["illume", "--database", "postgresql://me:secret@db/x"], "illume --database 'postgresql://me:***@db/x'"),
    ],
)
def test_a_command_line_is_kept_without_its_secrets(arguments: list[str], masked: str) -> None:
    assert masked_command(arguments) == masked


def test_an_event_of_an_older_version_names_nobody() -> None:
    event = Event(run_id="r", sequence=1, time=0.0, epoch=0, kind="run_state")
    assert actor_of(event) is None
    named = Event(run_id="r", sequence=1, time=0.0, epoch=0, kind="run_state", fields={"actor": {"user": "al", "x": 1}})
    found = actor_of(named)
    assert found is not None
    assert (found.user, found.host, found.command) == ("al", "", "")


def test_the_name_of_a_token_comes_before_the_user() -> None:
    record = actor_record(Actor(user="root", host="pod-7", token_name="ci", command=("illume", "gc"), reason="quota"))
    assert (record.name, record.command, record.reason) == ("ci", "illume gc", "quota")
