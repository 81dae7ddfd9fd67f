"""Records of changes in a store outside of runs."""

from orchestrator.actor import Actor, acting_as
from orchestrator.history.changes import MAX_SUBJECTS, read_changes, record_change
from tests.orchestrator.conftest import MemoryStore


def test_changes_come_back_oldest_first_with_their_actor(memory_store: MemoryStore) -> None:
    with acting_as(Actor(user="al", host="h", command=("illume", "pin", "x"), reason="for the paper")):
        record_change(memory_store, "pin", ["curate " + "a" * 64])
    record_change(memory_store, "gc", [str(number) for number in range(MAX_SUBJECTS + 7)])
    record_change(memory_store, "gc", [])
    first, second = read_changes(memory_store)
    assert (first.what, first.subjects, first.actor.name) == ("pin", ("curate " + "a" * 64,), "al@h")
    assert (first.actor.command, first.actor.reason) == ("illume pin x", "for the paper")
    assert (len(second.subjects), second.num_subjects) == (MAX_SUBJECTS, MAX_SUBJECTS + 7)
