"""Fences: which records of an aborted attempt count."""

from typing import Any

import pytest

from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.store.commits import commit_attempt, head, is_retracted, retract
from orchestrator.store.fences import Fences, put_fence, read_fence
from orchestrator.store.layout import Site
from orchestrator.store.store import Store

SITE = Site(what="checkpoint", attempts="c/1/attempts", stem="c/1/COMMIT", owners="attempts")
NONCE = "0123456789abcdef"


def commit(store: Store, owner: str, generation: int = 0) -> None:
    commit_attempt(store, SITE, generation=generation, attempt=f"{owner}-{NONCE}", epoch=1, body={})


def test_without_a_fence_every_record_counts(store: Store) -> None:
    commit(store, "a")
    found = head(store, SITE).commit
    assert found is not None
    assert found.attempt == f"a-{NONCE}"
    assert read_fence(store, "attempts", "a") is None


def test_a_fenced_attempt_keeps_what_is_listed_and_nothing_else(store: Store) -> None:
    commit(store, "a")
    put_fence(store, "attempts", "a", ["c/1/COMMIT"])
    assert head(store, SITE).commit is not None
    put_fence(store, "attempts", "a", [])  # the first fence is final
    assert head(store, SITE).commit is not None
    other = Site(what="checkpoint", attempts="c/2/attempts", stem="c/2/COMMIT", owners="attempts")
    commit_attempt(store, other, generation=0, attempt=f"a-{NONCE}", epoch=1, body={})
    assert (head(store, other).generation, head(store, other).commit) == (1, None)


def test_the_generation_after_a_record_that_does_not_count_is_open_to_others(store: Store) -> None:
    put_fence(store, "attempts", "a", [])
    commit(store, "a")
    commit(store, "b", generation=1)
    found = head(store, SITE).commit
    assert found is not None
    assert (found.generation, found.attempt) == (1, f"b-{NONCE}")


def test_a_retraction_after_the_fence_does_not_count_and_can_be_made_by_another(store: Store) -> None:
    commit(store, "b")
    put_fence(store, "attempts", "a", [])
    retract(store, SITE, 0, reason="a zombie", attempt="a")
    assert not is_retracted(store, SITE, 0, Fences(store, SITE.owners))
    assert head(store, SITE).commit is not None
    retract(store, SITE, 0, reason="on purpose", attempt="b")
    retract(store, SITE, 0, reason="repeated")
    assert head(store, SITE).generation == 1
    assert [item.key for item in store.list("c") if "RETRACTED" in item.key] == [
        "c/1/COMMIT.RETRACTED",
        "c/1/COMMIT.RETRACTED.1",
    ]


def test_a_retraction_that_names_nobody_counts(store: Store) -> None:
    """As older versions wrote them, and people with `illume gc`, `verify --heal` and `takedown`."""
    commit(store, "a")
    put_fence(store, "attempts", "a", ["c/1/COMMIT"])
    retract(store, SITE, 0, reason="by a person")
    assert head(store, SITE).generation == 1


@pytest.mark.parametrize("content", [b"{", b'{"format":2,"records":[]}', b'{"format":1}'])
def test_a_fence_that_cannot_be_read_is_named(store: Store, content: bytes) -> None:
    commit(store, "a")
    store.put_new("attempts/a/FENCE", content)
    with pytest.raises((CorruptArtifactError, NewerFormatError), match=r"attempts/a/FENCE"):
        head(store, SITE)


def test_where_nobody_can_be_fenced_nothing_is_read() -> None:
    unread: Any = None
    assert Fences(unread, "").counts("run-1-train-1-1", "shards/x/COMMIT")
    assert Fences(unread, "artifacts/x/attempts").counts("", "artifacts/x/COMMIT")
