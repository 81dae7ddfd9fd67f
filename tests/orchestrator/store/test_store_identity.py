"""The identity of a store: made once, remembered, and never concluded from what is not there."""

import errno
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.backends.local_store import LocalStore
from orchestrator.errors import CorruptArtifactError, ForeignStoreError, NewerFormatError, UnreachableStoreError
from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.attempt_folder import new_folder
from orchestrator.store.group_commit import put_all
from orchestrator.store.layout import IDENTITY, artifact_site
from orchestrator.store.store_identity import (
    ExpectedStore,
    check_folders,
    check_on_this_node,
    check_store,
    establish,
    folder_of,
    read_identity,
)
from tests.orchestrator.conftest import MemoryStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def move_away(store: LocalStore, folder: str) -> None:
    """What an unmounted folder looks like: an empty one of the same name."""
    (store.root / folder).rename(store.root.parent / folder.replace("/", "-"))
    (store.root / folder).mkdir()


def test_an_identity_is_made_once_and_kept(store: LocalStore) -> None:
    assert read_identity(store) is None
    first = establish(store, ["curate"])
    assert establish(store, ["train"]) == first == read_identity(store)
    check_store(store, ExpectedStore(store_id=first.store_id))
    check_store(store, None)


def test_a_store_of_an_older_version_has_none_and_is_taken_as_it_is(store: LocalStore) -> None:
    store.put_new("artifacts/curate/ab/x", b"old")
    check_store(store, None)
    check_folders(store)
    establish(store)
    move_away(store, "artifacts/curate")
    with pytest.raises(UnreachableStoreError, match="folder 'artifacts/curate'"):
        check_folders(store)


def test_a_store_that_is_not_mounted_is_not_empty(store: LocalStore) -> None:
    identity = establish(store)
    elsewhere = LocalStore(store.root.parent / "not-mounted")
    with pytest.raises(UnreachableStoreError, match=r"no 'STORE.json'.*mounted.*Nothing was changed"):
        check_store(elsewhere, ExpectedStore(store_id=identity.store_id))
    assert not elsewhere.root.exists()


def test_another_store_is_refused(store: LocalStore, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "other")
    establish(other)
    with pytest.raises(ForeignStoreError, match="another --database") as error:
        check_store(other, ExpectedStore(store_id=establish(store).store_id))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("folder", ["artifacts", "shards", "artifacts/curate", "shards/curate", "runs", "plans"])
def test_a_folder_that_is_not_mounted_is_named(store: LocalStore, folder: str) -> None:
    identity = establish(store, ["curate"])
    move_away(store, folder)
    with pytest.raises(UnreachableStoreError, match=f"folder '{folder}"):
        check_store(store, ExpectedStore(store_id=identity.store_id))


def test_a_folder_of_another_store_in_its_place_is_named(store: LocalStore, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "other")
    establish(other, ["curate"])
    establish(store, ["curate"])
    move_away(store, "artifacts/curate")
    (store.root / "artifacts" / "curate" / "STORE").write_bytes((other.root / "artifacts/curate/STORE").read_bytes())
    with pytest.raises(UnreachableStoreError, match="marker of another store"):
        check_folders(store)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"{}", CorruptArtifactError), (b"", CorruptArtifactError), (b'{"format":2}', NewerFormatError)],
)
def test_an_identity_that_cannot_be_read_is_an_error_that_names_the_file(
    store: LocalStore, content: bytes, error: type[Exception]
) -> None:
    store.put_new(IDENTITY, content)
    with pytest.raises(error, match=IDENTITY):
        check_store(store, None)
    with pytest.raises(error, match=IDENTITY):
        establish(store)


def test_a_node_that_does_not_see_the_store_is_named(store: LocalStore, tmp_path: Path) -> None:
    store_id = establish(store).store_id
    check_on_this_node(store, store_id)
    check_on_this_node(LocalStore(tmp_path / "elsewhere"), "")  # the driver sees no identity, either
    with pytest.raises(UnreachableStoreError, match=f"on node .*: found no store, expected {store_id}, .*nothing was"):
        check_on_this_node(LocalStore(tmp_path / "elsewhere"), store_id)
    other = LocalStore(tmp_path / "other")
    with pytest.raises(UnreachableStoreError, match=f"found store {establish(other).store_id}, expected {store_id}"):
        check_on_this_node(other, store_id)


@pytest.mark.parametrize("is_empty_folder_left", [False, True])
def test_a_store_whose_mount_goes_away_takes_no_write_and_calls_nothing_missing(
    store: LocalStore, tmp_path: Path, is_empty_folder_left: bool
) -> None:
    establish(store, ["curate"])
    store.put_new("runs/r/RUN.json", b"run")
    worker: LocalStore = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    file = tmp_path / "file"
    file.write_text("content")
    store.root.rename(tmp_path / "away")
    if is_empty_folder_left:
        store.root.mkdir()
    site = artifact_site(ArtifactKey("curate", "ab" * 32))
    logs = RunLogs(store=worker, state=tmp_path, run_id="r")
    actions: list[Callable[[], object]] = [
        lambda: put_all(worker, [("runs/r/RUN.json", b"another")]),
        lambda: new_folder(worker, tmp_path, site=site, key=ArtifactKey("curate", "ab" * 32), attempt="r-1"),
        lambda: worker.make_folder("runs/r/logs"),
        logs.make_folder,
        lambda: worker.put_new("runs/r/RUN.json", b"another"),
        lambda: worker.upload(file, "artifacts/curate/ab/file"),
        lambda: worker.link("runs/r/RUN.json", "artifacts/curate/ab/run"),
        lambda: worker.get("runs/r/RUN.json"),
        lambda: list(worker.list("runs")),
        lambda: worker.folders("runs"),
        lambda: worker.digest("runs/r/RUN.json"),
        lambda: worker.download("runs/r/RUN.json", tmp_path / "copy"),
    ]
    for action in actions:
        with pytest.raises(UnreachableStoreError, match=r"'STORE\.json' was there and is not now"):
            action()
    with logs.capture("r-curate-1-1"):
        logging.getLogger("stage").warning("the work goes on without its log")
    assert not store.root.exists() or not list(store.root.iterdir())
    if is_empty_folder_left:
        store.root.rmdir()
    (tmp_path / "away").rename(store.root)
    assert worker.get("runs/r/RUN.json") == b"run"


def test_an_identity_that_was_read_once_must_stay(store: LocalStore, tmp_path: Path) -> None:
    """A mount that goes away while a store gets its identity: its markers must not end up in the folder below."""
    establish(LocalStore(store.root))
    assert read_identity(store) is not None
    store.root.rename(tmp_path / "away")
    with pytest.raises(UnreachableStoreError):
        store.put_new("folders/artifacts", b"artifacts")
    assert not store.root.exists()


def test_a_bucket_is_the_same_on_every_node(memory_store: MemoryStore) -> None:
    check_on_this_node(memory_store, "0" * 32)  # no identity is read


def test_a_folder_that_cannot_be_looked_at_is_named(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    establish(store)
    assert folder_of(store).startswith("inode ")

    def stale(_path: Path, **_options: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stale)
        with pytest.raises(UnreachableStoreError, match="Stale file handle"):
            folder_of(store)
