from pathlib import Path

import pytest

from orchestrator.artifact import FileEntry
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.objects import Digest
from orchestrator.store.verification import Difference, compare, differences, move_to_cache, readable_folder
from tests.orchestrator.conftest import MemoryStore


def put(store: MemoryStore, name: str, data: bytes) -> FileEntry:
    store.objects[f"here/{name}"] = data
    digest = store.digest(f"here/{name}")
    assert digest is not None
    return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256)


@pytest.mark.parametrize(
    ("digest", "found", "expected"),
    [
        (None, "no file", "1,000 bytes"),
        (Digest(bytes=999, sha256="a" * 64), "999 bytes", "1,000 bytes"),
        (Digest(bytes=1000, sha256="b" * 64), f"SHA-256 {'b' * 64}", f"SHA-256 {'a' * 64}"),
    ],
)
def test_a_difference_names_what_was_found_and_expected(digest: Digest | None, found: str, expected: str) -> None:
    file = FileEntry(path="part", bytes=1000, sha256="a" * 64)
    assert compare(file, digest) == Difference(path="part", found=found, expected=expected)
    assert compare(file, Digest(bytes=1000, sha256="a" * 64)) is None


def test_a_flipped_byte_is_found_only_by_reading_every_byte(memory_store: MemoryStore) -> None:
    files = [put(memory_store, "a", b"aaaa"), put(memory_store, "b", b"bbbb")]
    memory_store.objects["here/b"] = b"bbbX"
    assert differences(memory_store, "here", files, rehash=False) == []
    assert [found.path for found in differences(memory_store, "here", files, rehash=True)] == ["b"]
    del memory_store.objects["here/a"]
    assert [found.path for found in differences(memory_store, "here", files, rehash=False)] == ["a"]


def test_files_are_downloaded_once_and_again_if_the_copy_is_incomplete(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    files = [put(memory_store, "deep/a", b"aaaa"), put(memory_store, "b", b"bbbb")]
    folder = readable_folder(memory_store, tmp_path, "here", files)
    stored, memory_store.objects = memory_store.objects, {}
    assert readable_folder(memory_store, tmp_path, "here", files) == folder  # needs no store
    memory_store.objects = stored
    (folder / "b").write_bytes(b"b")
    assert (readable_folder(memory_store, tmp_path, "here", files) / "b").read_bytes() == b"bbbb"
    assert not any((tmp_path / "downloads").iterdir())


def test_damage_found_while_downloading_leaves_no_copy(memory_store: MemoryStore, tmp_path: Path) -> None:
    files = [put(memory_store, "a", b"aaaa"), put(memory_store, "b", b"bbbb")]
    memory_store.objects.update({"here/a": b"X", "here/b": b"X"})
    with pytest.raises(CorruptArtifactError, match=r"memory: here: file 'a': found 1 bytes, .* \(and 1 more files\)"):
        readable_folder(memory_store, tmp_path, "here", files)
    assert not (tmp_path / "here").exists()
    assert not any((tmp_path / "downloads").iterdir())


def test_a_folder_moved_to_the_cache_replaces_an_older_one(tmp_path: Path) -> None:
    fresh, target = tmp_path / "fresh", tmp_path / "cache" / "x" / "data"
    for content in ("old", "new"):
        fresh.mkdir()
        (fresh / "part").write_text(content)
        move_to_cache(fresh, target, tmp_path / "cache")
        assert (target / "part").read_text() == content
    assert not fresh.exists()
