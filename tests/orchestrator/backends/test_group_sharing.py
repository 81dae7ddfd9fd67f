import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.backends.group_sharing import share_folder
from orchestrator.backends.local_store import LocalStore
from orchestrator.identity import fingerprint_of
from orchestrator.store.store import open_store, probe
from orchestrator.store.store_identity import establish

PAYLOAD = {"kind": "curate"}


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def commit(store: LocalStore) -> None:
    artifacts = ArtifactStore(store, store.root / "unused")
    attempt = artifacts.new_attempt(ArtifactKey("curate", fingerprint_of(PAYLOAD)), "first")
    (attempt.data / "deep" / "er").mkdir(parents=True)
    (attempt.data / "deep" / "er" / "file").write_bytes(b"1")
    artifacts.commit(attempt, ManifestDraft(kind="dataset@1", payload=dict(PAYLOAD), metrics={}), epoch=1)


def test_in_a_shared_store_the_group_may_do_what_the_owner_may(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2770)
    store = LocalStore(root)
    probe(store)
    establish(store, ["curate"])
    commit(store)
    folders = [path for path in root.rglob("*") if path.is_dir()]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(folders) > 8
    assert {stat.S_IMODE(path.stat().st_mode) & 0o2070 for path in folders} == {0o2070}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o040 for path in files} == {0o040}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o022 for path in files} == {0}  # what is committed is never changed


def test_a_store_of_one_person_stays_that_of_the_umask(tmp_path: Path, umask: int) -> None:
    commit(LocalStore(tmp_path / "store"))
    rights = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").rglob("*") if path.is_dir()}
    assert rights == {0o777 & ~umask}


@pytest.mark.parametrize(("parent", "own", "expected"), [(0o1777, 0o755, 0o755), (0o770, 0o700, 0o700)])
def test_a_folder_for_everybody_or_hidden_by_the_umask_is_not_shared(tmp_path, parent, own, expected) -> None:
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    folder.parent.chmod(parent)
    folder.chmod(own)
    share_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == expected


def test_a_file_of_another_owner_is_copied_where_links_to_it_are_forbidden(tmp_path: Path, monkeypatch) -> None:
    store = open_store(tmp_path / "store")
    store.put_new("theirs/file", b"content")
    link = os.link

    def protected(source: Path, target: Path) -> None:  # fs.protected_hardlinks: only one's own files
        if Path(source).parent.name == "theirs":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", protected)
    store.link("theirs/file", "ours/file")
    assert store.get("ours/file") == b"content"
    assert list((tmp_path / "store/.tmp").iterdir()) == []
