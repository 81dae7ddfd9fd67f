"""A database remembers the first store that it was used with, and which store is being made for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import failpoints
from orchestrator.backends.local_store import LocalStore
from orchestrator.errors import StoreError, UnreachableStoreError
from orchestrator.history.database.database import Database
from orchestrator.history.database.known_store import establish_known_store, remember_store, remembered_store
from orchestrator.store.store_identity import ExpectedStore, check_store, read_identity

SEEN, OTHER = ExpectedStore(store_id="a" * 32), ExpectedStore(store_id="b" * 32)
INTENDED = ExpectedStore(store_id="c" * 32, made_in="inode 7")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(str(tmp_path / "index.db"))
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "mount" / "store")


def test_the_first_store_is_remembered(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "index.db"))
    assert remembered_store(database) is None
    assert remember_store(database, SEEN) == SEEN
    assert remember_store(database, OTHER) == SEEN
    assert remember_store(database, INTENDED) == SEEN
    database.close()
    reopened = Database(str(tmp_path / "index.db"))
    assert remembered_store(reopened) == SEEN
    reopened.close()


def test_of_two_drivers_that_make_a_store_the_first_names_it(database: Database) -> None:
    assert remember_store(database, INTENDED) == INTENDED
    assert remember_store(database, ExpectedStore(store_id="d" * 32, made_in="inode 8")) == INTENDED
    assert remember_store(database, SEEN) == SEEN  # what was seen counts more than what was intended
    assert remembered_store(database) == SEEN


def stopped_at(point: str, database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver makes the store and ends at a failpoint."""
    check_store(store, remembered_store(database))
    with monkeypatch.context() as armed:
        armed.setattr(failpoints, "_armed", failpoints.parse(f"{point}=raise"))
        with pytest.raises(StoreError, match="failpoint"):
            establish_known_store(database, store, ["curate"])


@pytest.mark.parametrize("point", ["store.expected", "store.established"])
def test_a_store_whose_making_broke_off_is_made_by_the_next_driver(
    point: str, database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at(point, database, store, monkeypatch)
    expected = remembered_store(database)
    assert expected is not None
    assert expected.made_in
    later = LocalStore(store.root)
    check_store(later, expected)
    establish_known_store(database, later, ["curate"])
    identity = read_identity(later)
    assert identity is not None
    assert identity.store_id == expected.store_id
    assert remembered_store(database) == ExpectedStore(store_id=expected.store_id)


@pytest.mark.parametrize("is_empty_folder_left", [False, True])
@pytest.mark.parametrize("point", ["store.expected", "store.established"])
def test_no_second_store_is_made_below_a_mount_that_went_away_while_it_was_made(
    point: str,
    is_empty_folder_left: bool,
    database: Database,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped_at(point, database, store, monkeypatch)
    store.root.rename(tmp_path / "away")
    if is_empty_folder_left:
        store.root.mkdir()
    later = LocalStore(store.root)
    with pytest.raises(UnreachableStoreError, match=r"being made for this database.*mounted.*Nothing was changed"):
        check_store(later, remembered_store(database))
    assert not list(store.root.parent.rglob("*.*"))
    shutil.rmtree(store.root, ignore_errors=True)
    (tmp_path / "away").rename(store.root)
    again = LocalStore(store.root)
    check_store(again, remembered_store(database))
    establish_known_store(database, again, ["curate"])


def test_a_mount_that_goes_away_between_the_look_and_the_identity_is_noticed(
    database: Database, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at("store.expected", database, store, monkeypatch)
    store.root.rename(tmp_path / "away")
    with pytest.raises(UnreachableStoreError, match="being made"):
        establish_known_store(database, LocalStore(store.root), ["curate"])
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["STORE.json"]  # no marker, no run
    (tmp_path / "away").rename(tmp_path / "mount" / "back")
    back = LocalStore(tmp_path / "mount" / "back")
    check_store(back, remembered_store(database))  # what counts is the folder


def test_an_existing_store_is_taken_by_an_empty_database(database: Database, store: LocalStore, tmp_path: Path) -> None:
    establish_known_store(database, store, [])
    first = read_identity(store)
    other = Database(str(tmp_path / "other.db"))
    establish_known_store(other, LocalStore(store.root), [])
    assert first is not None
    assert remembered_store(other) == ExpectedStore(store_id=first.store_id)
    other.close()
