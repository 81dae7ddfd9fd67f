"""Records that become durable together: the order of writes, and what a crash between any two of them leaves."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.local_store import TEMPORARY
from orchestrator.store import group_commit
from orchestrator.store.group_commit import prepared, put_all, sync_all
from orchestrator.store.store import Store, open_store


def test_each_record_is_created_once(store: Store) -> None:
    assert put_all(store, [("a/1", b"one"), ("a/2", b"two")]) == [True, True]
    assert put_all(store, [("a/2", b"other"), ("b/3", b"three")]) == [False, True]
    assert [store.get(key) for key in ("a/1", "a/2", "b/3")] == [b"one", b"two", b"three"]
    assert put_all(store, []) == []


@pytest.mark.parametrize("renames", [True, False])
def test_a_name_is_given_once_with_and_without_a_rename_that_never_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool
) -> None:
    if not renames:
        monkeypatch.setattr(group_commit, "_rename_new", lambda: lambda _old, _new: errno.EINVAL)
    store = open_store(tmp_path / "store")
    assert put_all(store, [("a/1", b"one"), ("deep/er/2", b"two")]) == [True, True]
    assert put_all(store, [("a/1", b"other"), ("deep/3", b"three")]) == [False, True]
    assert [store.get(key) for key in ("a/1", "deep/er/2", "deep/3")] == [b"one", b"two", b"three"]
    assert list((tmp_path / "store" / TEMPORARY).iterdir()) == []


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    put_all(store, [("a/1", b"one"), ("a/1", b"again")])
    assert list((tmp_path / "store" / TEMPORARY).iterdir()) == []
    assert store.get("a/1") == b"one"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and linked, in order; the whole file system counts as "all"."""
    found: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def spy_link(source: Path | str, target: Path | str) -> None:
        found.append(f"link {Path(target).name}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(group_commit, "_rename_new", lambda: None)
    return found


def sync_once(calls: list[str]) -> Callable[[], Callable[[Path], None]]:
    return lambda: lambda _folder: calls.append("all")


def test_nothing_is_linked_before_it_and_what_it_names_are_on_the_disk(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, own = open_store(tmp_path / "store"), tmp_path / "store" / "own"
    own.parent.mkdir()
    own.write_bytes(b"own")
    monkeypatch.setattr(group_commit, "_syncfs", lambda: None)
    put_all(store, [(f"{number}/r", b"") for number in range(3)], written=lambda: [own])
    first_link = calls.index("link r")
    assert "own" in calls[:first_link]
    assert sum(len(name.partition("-")[0]) == 32 for name in calls[:first_link]) == 3  # the temporary files
    assert set(calls[calls.index("link r") :]) >= {"0", "1", "2"}  # their folders, after them
    calls.clear()
    monkeypatch.setattr(group_commit, "_syncfs", sync_once(calls))
    monkeypatch.setattr(group_commit, "is_local_disk", lambda _folder: True)
    monkeypatch.setattr(group_commit, "MAX_DIRTY_BYTES", 1 << 62)
    put_all(store, [(f"{number}/s", b"") for number in range(5)], written=lambda: [own])
    assert [name for name in calls if name == "all" or name.startswith("link")] == ["all", *["link s"] * 5, "all"]


def test_records_in_two_steps_share_the_sync_of_their_bytes(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "store")
    monkeypatch.setattr(group_commit, "_syncfs", sync_once(calls))
    monkeypatch.setattr(group_commit, "is_local_disk", lambda _folder: True)
    monkeypatch.setattr(group_commit, "MAX_DIRTY_BYTES", 1 << 62)
    store.put_new("1/first", b"of another")
    records = [(f"{number}/{name}", name.encode()) for name in ("first", "then") for number in range(5)]
    calls.clear()
    with prepared(store, records) as create:
        created = create(range(5))
        assert created == [True, False, True, True, True]
        assert store.get("0/first") == b"first"
        assert store.get("0/then") is None
        assert create([5 + number for number in range(5) if created[number]]) == [True] * 4
    steps = [name for name in calls if name == "all" or name.startswith("link")]
    assert steps == ["all", *["link first"] * 5, "all", *["link then"] * 4, "all"]
    assert [store.get(f"{number}/then") for number in range(2)] == [b"then", None]
    assert list((tmp_path / "store" / TEMPORARY).iterdir()) == []


@pytest.mark.parametrize("why", ["few", "not a local disk", "much is waiting", "no such request"])
def test_where_one_sync_would_be_wrong_or_slow_each_path_is_synced(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(group_commit, "_syncfs", (lambda: None) if why == "no such request" else sync_once(calls))
    monkeypatch.setattr(group_commit, "is_local_disk", lambda _folder: why != "not a local disk")
    monkeypatch.setattr(group_commit, "MAX_DIRTY_BYTES", -1 if why == "much is waiting" else 1 << 62)
    paths = [tmp_path / str(number) for number in range(2 if why == "few" else 6)]
    for path in paths:
        path.touch()
    sync_all(tmp_path, lambda: paths, at_least=len(paths))
    assert sorted(calls) == [path.name for path in paths]
