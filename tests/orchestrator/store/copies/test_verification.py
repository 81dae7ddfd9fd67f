import pytest

from orchestrator.artifact import FileEntry
from orchestrator.backends.objects import Digest
from orchestrator.store.copies.verification import Difference, compare, differences
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
