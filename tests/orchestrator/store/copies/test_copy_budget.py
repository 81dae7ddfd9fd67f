import os
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.store.copies.copy_budget import (
    BUDGET_VARIABLE,
    CACHE_VARIABLE,
    LEFTOVER_AGE_S,
    budget_bytes,
    cache_of_node,
    copies,
    delete_copy,
    evict,
    make_room,
)
from orchestrator.store.copies.copy_locks import hold, release


def add_copy(cache: Path, name: str, *, used_s: float, size: int = 1000) -> str:
    folder = cache / name / "data"
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(bytes(size))
    os.utime(folder, (used_s, used_s))
    return f"{name}/data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for number, name in enumerate(("old", "middle", "new")):
        add_copy(tmp_path, name, used_s=1000.0 + number)
    for name in ("staging/x/data", "downloads/1", "trace/2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "part").write_bytes(bytes(1000))
    return tmp_path


def names(cache: Path) -> list[str]:
    return sorted(copy.data_key.partition("/")[0] for copy in copies(cache))


@pytest.mark.parametrize(
    ("text", "expected"), [("2000", 2000), ("1 kB", 1000), ("1.5GiB", 3 * 2**29), ("1TB", 10**12), ("7B", 7)]
)
def test_a_budget_is_a_size(tmp_path: Path, text: str, expected: int) -> None:
    assert budget_bytes(tmp_path, {BUDGET_VARIABLE: text}) == expected


def test_without_a_budget_it_is_half_the_disk(tmp_path: Path) -> None:
    assert budget_bytes(tmp_path / "absent", {}) == shutil.disk_usage(tmp_path).total // 2


@pytest.mark.parametrize("text", ["much", "-1", "1 XB", "GB"])
def test_a_budget_that_is_no_size_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"ILLUME_CACHE_BYTES: found .*, expected a size such as 500GB"):
        budget_bytes(tmp_path, {BUDGET_VARIABLE: text})


def test_the_least_recently_used_go_first_and_only_as_many_as_needed(cache: Path) -> None:
    assert evict(cache, 1500) == 2000
    assert names(cache) == ["new"]
    assert (cache / "staging/x/data/part").exists()
    assert not (cache / "old").exists()


def test_a_copy_that_is_read_stays(cache: Path) -> None:
    hold(cache, "old/data", "reader")
    assert evict(cache, 1500) == 2000
    assert names(cache) == ["old"]
    assert not delete_copy(cache, "old/data")
    release(cache, "reader")
    assert delete_copy(cache, "old/data")


def test_room_is_made_up_to_the_budget(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "6000")
    make_room(cache, 1000)  # 3 copies and 3 other folders of 1,000 bytes, and 1,000 more
    assert names(cache) == ["middle", "new"]
    hold(cache, "middle/data", "reader")
    hold(cache, "new/data", "reader")
    make_room(cache, 5000)
    assert names(cache) == ["middle", "new"]
    assert (
        "local copies take 4000 bytes more than the budget of 6000 bytes, and all of them are being read" in caplog.text
    )
    release(cache, "reader")


def test_small_additions_are_counted_before_the_cache_is_measured_again(cache: Path, monkeypatch) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "6400")
    make_room(cache, 0)
    for number in range(4):
        add_copy(cache, f"small-{number}", used_s=2000.0, size=150)
        make_room(cache, 0, written_bytes=150)
    assert names(cache) == ["middle", "new", "small-0", "small-1", "small-2", "small-3"]


def test_the_cache_of_a_node_is_private_and_one_for_each_store(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, again, other = cache_of_node("s3://a", {}), cache_of_node("s3://a", {}), cache_of_node("s3://b", {})
    assert first == again != other
    assert first.parent == other.parent
    assert first.parent.stat().st_mode & 0o777 == 0o700
    first.parent.rmdir()
    first.parent.symlink_to(tmp_path)  # somebody else made it before us
    assert cache_of_node("s3://a", {}).parent != first.parent
    assert cache_of_node("s3://a", {CACHE_VARIABLE: "/nvme"}) == Path("/nvme") / first.name


def test_what_killed_processes_left_long_ago_goes_first_unless_somebody_holds_it(cache: Path) -> None:
    (cache / "staging/y/data").mkdir(parents=True)
    (cache / "staging/y/data/part").write_bytes(bytes(500))
    long_ago_s = time.time() - 2 * LEFTOVER_AGE_S
    for top in ("staging", "downloads"):
        for path in (cache / top).rglob("*"):
            os.utime(path, (long_ago_s, long_ago_s))
    os.utime(cache / "downloads/1/part")  # is arriving
    hold(cache, "staging/x/data", "an attempt")
    assert evict(cache, 400) == 500
    assert names(cache) == ["middle", "new", "old"]
    release(cache, "an attempt")
    assert evict(cache, 1) == 1000
    assert not (cache / "staging").exists() or not list((cache / "staging").rglob("part"))
    assert (cache / "downloads/1/part").exists()
