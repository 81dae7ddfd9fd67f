import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.artifact import FileEntry
from orchestrator.backends.objects import Digest
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.store.copies import copy_budget
from orchestrator.store.copies.copy_locks import release
from orchestrator.store.copies.local_copy import adopt_folder, readable_folder
from tests.orchestrator.conftest import MemoryStore


@dataclass
class CountingStore(MemoryStore):
    """Counts downloads; `before` is called with the key and the path before each."""

    downloads: list[str] = field(default_factory=list)
    before: Callable[[str, Path], None] = lambda _key, _path: None

    def download(self, key: str, path: Path) -> Digest | None:
        self.downloads.append(key)
        self.before(key, path)
        return super().download(key, path)


@pytest.fixture
def counting() -> CountingStore:
    return CountingStore()


def put(store: MemoryStore, name: str, data: bytes, data_key: str = "here/data") -> FileEntry:
    store.objects[f"{data_key}/{name}"] = data
    digest = store.digest(f"{data_key}/{name}")
    assert digest is not None
    return FileEntry(path=name, bytes=digest.bytes, sha256=digest.sha256)


def test_files_are_downloaded_once_and_again_if_the_copy_is_incomplete(counting: CountingStore, tmp_path: Path) -> None:
    files = [put(counting, "deep/a", b"aaaa"), put(counting, "b", b"bbbb")]
    folder = readable_folder(counting, tmp_path, "here/data", files)
    assert readable_folder(counting, tmp_path, "here/data", files) == folder
    assert len(counting.downloads) == 2
    (folder / "b").write_bytes(b"b")
    assert (readable_folder(counting, tmp_path, "here/data", files) / "b").read_bytes() == b"bbbb"
    assert len(counting.downloads) == 3
    assert not any((tmp_path / "downloads").iterdir())


def test_a_folder_of_which_nothing_is_wanted_yet_exists(counting: CountingStore, tmp_path: Path) -> None:
    folder = readable_folder(counting, tmp_path, "here/data", [])
    assert folder.is_dir()
    assert counting.downloads == []


def test_eight_readers_at_once_make_one_download_of_each_file(counting: CountingStore, tmp_path: Path) -> None:
    files = [put(counting, name, name.encode()) for name in ("a", "b", "c", "d")]
    counting.before = lambda _key, _path: threading.Event().wait(0.02) and None
    failed: list[BaseException] = []

    def read() -> None:
        try:
            folder = readable_folder(counting, tmp_path, "here/data", files)
            assert [(folder / file.path).read_bytes() for file in files] == [b"a", b"b", b"c", b"d"]
        except (Exception, AssertionError) as error:  # noqa: BLE001 - of any kind
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(counting.downloads) == [f"here/data/{name}" for name in "abcd"]


def test_files_asked_for_later_join_those_that_are_read(counting: CountingStore, tmp_path: Path) -> None:
    files = [put(counting, "a", b"aaaa"), put(counting, "b", b"bbbb")]
    folder = readable_folder(counting, tmp_path, "here/data", files[:1])
    before = (folder / "a").stat()
    with (folder / "a").open("rb") as reading:
        assert readable_folder(counting, tmp_path, "here/data", files) == folder
        assert (folder / "a").stat().st_ino == before.st_ino
        assert reading.read() == b"aaaa"
    assert counting.downloads == ["here/data/a", "here/data/b"]


def test_a_damaged_object_leaves_no_copy(counting: CountingStore, tmp_path: Path) -> None:
    files = [put(counting, "a", b"aaaa"), put(counting, "b", b"bbbb")]
    counting.objects.update({"here/data/a": b"X", "here/data/b": b"X"})
    message = r"memory: here/data: file 'a': found 1 bytes, expected 4 bytes \(and 1 more files\)"
    with pytest.raises(CorruptArtifactError, match=message):
        readable_folder(counting, tmp_path, "here/data", files)
    assert not (tmp_path / "here/data").exists()
    assert not any((tmp_path / "downloads").iterdir())


def test_files_that_had_arrived_before_a_failure_are_not_fetched_again(counting: CountingStore, tmp_path: Path) -> None:
    files = [put(counting, "a", b"aaaa"), put(counting, "b", b"bbbb")]

    def fail(key: str, path: Path) -> None:
        if key.endswith("b"):
            path.write_bytes(b"b?")  # as far as it came
            raise StoreError("memory: away")

    counting.before = fail
    with pytest.raises(StoreError, match="memory: away"):
        readable_folder(counting, tmp_path, "here/data", files)
    left = []
    counting.downloads.clear()
    counting.before = lambda _key, path: left.append(path.read_bytes())
    folder = readable_folder(counting, tmp_path, "here/data", files)
    assert counting.downloads == ["here/data/b"]
    assert left == [b"b?"]  # handed to the store, which may go on from there
    assert (folder / "b").read_bytes() == b"bbbb"


def full_disk(times: int) -> Callable[[str, Path], None]:
    remaining = [times]

    def fill(_key: str, _path: Path) -> None:
        if remaining[0]:
            remaining[0] -= 1
            raise StoreError("no space left") from OSError(errno.ENOSPC, "No space left on device")

    return fill


def test_a_disk_that_fills_loses_older_copies_and_the_download_goes_on(counting: CountingStore, tmp_path: Path) -> None:
    old = [put(counting, "old", b"o" * 100, "old/data")]
    readable_folder(counting, tmp_path, "old/data", old, "finished stage")
    release(tmp_path, "finished stage")
    counting.before = full_disk(1)
    files = [put(counting, "a", b"aaaa")]
    assert (readable_folder(counting, tmp_path, "here/data", files) / "a").read_bytes() == b"aaaa"
    assert not (tmp_path / "old").exists()


def test_a_full_disk_with_nothing_to_delete_has_its_sentence(counting: CountingStore, tmp_path: Path) -> None:
    readable_folder(counting, tmp_path, "read/data", [put(counting, "read", b"r", "read/data")], "a reader")
    counting.before = full_disk(99)
    with pytest.raises(StoreError, match=r"the disk of node .* is full: found .* bytes free, expected 4, and every"):
        readable_folder(counting, tmp_path, "here/data", [put(counting, "a", b"aaaa")])
    assert (tmp_path / "read/data/read").read_bytes() == b"r"
    release(tmp_path, "a reader")


def test_copies_stay_within_the_budget(counting: CountingStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(copy_budget.BUDGET_VARIABLE, "5000")
    for number in range(20):
        data_key = f"{number}/data"
        readable_folder(counting, tmp_path, data_key, [put(counting, "a", bytes(1000), data_key)], f"stage {number}")
        release(tmp_path, f"stage {number}")
        assert copy_budget.bytes_below(tmp_path) <= 5000
    assert [copy.data_key for copy in copy_budget.copies(tmp_path)] == sorted(
        f"{number}/data" for number in range(15, 20)
    )


def test_written_files_become_the_copy_unless_there_is_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for content in ("first", "second"):
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        (fresh / "part").write_text(content)
        adopt_folder(cache, "x/data", fresh)
        assert (cache / "x/data/part").read_text() == "first"
        assert not fresh.exists()
