"""Files that come to a node when they are read: each once a node, within the budget, sound or named."""

import threading
from pathlib import Path

import pytest

from orchestrator.artifact import FileEntry
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.store.copies import copy_budget, node_files
from orchestrator.store.copies.node_files import NodeFiles
from tests.orchestrator.store.copies.test_local_copy import CountingStore, put


def files_of(store: CountingStore, cache: Path, contents: dict[str, bytes], holder: str = "attempt") -> NodeFiles:
    entries = {name: put(store, name, data) for name, data in contents.items()}
    return NodeFiles(store, cache, "here/data", entries, holder)


def test_ranks_of_a_node_fetch_a_shard_once_and_only_what_they_read(tmp_path: Path) -> None:
    store = CountingStore()
    found = files_of(store, tmp_path, {f"shards/{number}.tar": bytes([number]) * 9 for number in range(5)})
    ranks = [NodeFiles(store, tmp_path, "here/data", found.files, f"rank-{rank}") for rank in range(8)]
    threads = [threading.Thread(target=rank.fetch, args=(f"shards/{n}.tar",)) for rank in ranks for n in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.downloads) == ["here/data/shards/1.tar", "here/data/shards/3.tar"]
    path = ranks[0].fetch("shards/3.tar")
    assert path is not None
    assert path.read_bytes() == bytes([3]) * 9
    assert found.fetch("shards/9.tar") is None
    assert len(store.downloads) == 2


def test_what_was_not_read_for_long_makes_room_and_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_files, "MAX_HELD", 2)
    monkeypatch.setenv(copy_budget.BUDGET_VARIABLE, "250")
    monkeypatch.setattr(copy_budget, "CHECKS_PER_BUDGET", 10**9)  # looks at the budget each time
    store = CountingStore()
    found = files_of(store, tmp_path, {f"{number}.tar": bytes(100) for number in range(6)})
    for number in (*range(6), 0):
        path = found.fetch(f"{number}.tar")
        assert path is not None
        assert path.stat().st_size == 100
        held = [copy for copy in tmp_path.rglob("*.tar") if copy.is_file()]
        assert len(held) <= 3  # two that are held, and the one that arrived
    assert store.downloads.count("here/data/0.tar") == 2


def test_a_damaged_or_missing_shard_is_named(tmp_path: Path) -> None:
    store = CountingStore()
    found = files_of(store, tmp_path, {"a.tar": b"aaaa", "b.tar": b"bbbb"})
    store.objects["here/data/a.tar"] = b"aaaX"
    del store.objects["here/data/b.tar"]
    for name in ("a.tar", "b.tar"):
        with pytest.raises(CorruptArtifactError, match=name):
            found.fetch(name)


def test_a_full_disk_names_the_node_and_costs_no_sound_file(tmp_path: Path) -> None:
    store = CountingStore()
    found = files_of(store, tmp_path, {"a.tar": b"aaaa", "b.tar": b"bbbb"})
    kept = found.fetch("a.tar")

    def full(_key: str, _path: Path) -> None:
        raise OSError(28, "No space left on device")

    store.before = full
    with pytest.raises(StoreError, match=r"the disk of node .* is full: found .* bytes free, expected 4"):
        found.fetch("b.tar")
    assert kept is not None
    assert kept.read_bytes() == b"aaaa"


def test_it_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    entry = FileEntry(path="a", bytes=1, sha256="0" * 64)
    found = NodeFiles(CountingStore(), tmp_path, "here/data", {"a": entry})
    assert found.place == tmp_path / "here/data"
    assert sum(found.sizes.values()) == 1


def test_a_part_is_read_without_fetching_the_file(tmp_path: Path) -> None:
    store = CountingStore()
    data = bytes(range(256)) * 1024
    found = files_of(store, tmp_path, {"a.parquet": data})
    file = found.open("a.parquet")
    assert file is not None
    with file:
        assert file.seek(-8, 2) == len(data) - 8
        assert file.read() == data[-8:]
        file.seek(1000)
        assert file.read(300) == data[1000:1300]
        file.seek(0)
        assert file.read() == data
    assert store.downloads == []
    assert found.open("b.parquet") is None


def test_a_file_that_ends_early_is_named_by_whoever_reads_a_part(tmp_path: Path) -> None:
    store = CountingStore()
    found = files_of(store, tmp_path, {"a": bytes(100), "b": bytes(100)})
    store.objects["here/data/a"] = bytes(50)
    del store.objects["here/data/b"]
    for name, message in (("a", "a: found 50 bytes"), ("b", "b: found nothing, expected 100 bytes")):
        file = found.open(name)
        assert file is not None
        with file, pytest.raises(CorruptArtifactError, match=message):
            file.read(100)
