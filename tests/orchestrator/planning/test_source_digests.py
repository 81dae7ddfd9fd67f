"""Source files are identified by their bytes; a digest is cached only until the file changes."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.planning.source_digests import FileStamp, source_digests
from orchestrator.stage import Location, Resources, RetryPolicy, StageKind, StageSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: Location


@dataclass
class Memory:
    """A digest cache that records which files it knew."""

    entries: dict[FileStamp, str] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)

    def find(self, stamp: FileStamp) -> str | None:
        found = self.entries.get(stamp)
        if found:
            self.hits.append(Path(stamp.path).name)
        return found

    def remember(self, stamp: FileStamp, sha256: str) -> None:
        self.entries[stamp] = sha256


def every_file(config: Config) -> Mapping[str, Path]:
    return {path.name: path for path in sorted(Path(config.folder).iterdir())}


def no_run(_config: Any, _context: Any) -> dict[str, float]:
    return {}


def stage(folder: Path, sources: Any = every_file) -> StageSpec:
    kind = StageKind(name="ingest", version=1, config=Config, run=no_run, output="records@1", sources=sources)
    config = Config(folder=Location(folder))
    return StageSpec(id="ingested", kind=kind, config=config, inputs={}, resources=Resources(), retry=RetryPolicy())


def write(file: Path, text: str, *, age_s: float = 100.0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    made = file.stat().st_mtime - age_s
    os.utime(file, (made, made))


def test_files_are_identified_by_their_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "one")
    assert source_digests(stage(tmp_path), Memory()) == {"a.jsonl": hashlib.sha256(b"one").hexdigest()}


def test_a_kind_without_sources_has_none(tmp_path: Path) -> None:
    assert source_digests(stage(tmp_path, sources=None), Memory()) == {}


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "one")
    memory = Memory()
    first = source_digests(stage(tmp_path), memory)
    assert memory.hits == []
    assert source_digests(stage(tmp_path), memory) == first
    assert memory.hits == ["a.jsonl"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    memory = Memory()
    write(tmp_path / "a.jsonl", "one")
    first = source_digests(stage(tmp_path), memory)
    write(tmp_path / "a.jsonl", "two", age_s=50.0)
    assert source_digests(stage(tmp_path), memory) != first


@pytest.mark.parametrize("is_replaced", [True, False])
def test_other_bytes_of_the_same_size_and_time_are_seen(tmp_path: Path, is_replaced: bool) -> None:
    """As `cp -p`, `rsync -t` and unpacked archives leave them: a new file in the old place, or written over it."""
    memory = Memory()
    write(tmp_path / "a.jsonl", "one")
    first = source_digests(stage(tmp_path), memory)
    before = (tmp_path / "a.jsonl").stat()
    other = tmp_path.with_name("other")
    (other if is_replaced else tmp_path / "a.jsonl").write_text("two")
    if is_replaced:
        other.replace(tmp_path / "a.jsonl")
    os.utime(tmp_path / "a.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tmp_path / "a.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    assert source_digests(stage(tmp_path), memory) != first
    assert memory.hits == []


def test_another_host_does_not_know_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    write(tmp_path / "a.jsonl", "one")
    source_digests(stage(tmp_path), memory)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    source_digests(stage(tmp_path), memory)
    assert memory.hits == []


def test_the_digest_of_a_file_written_just_now_is_not_cached(tmp_path: Path) -> None:
    memory = Memory()
    write(tmp_path / "a.jsonl", "one", age_s=0.0)
    source_digests(stage(tmp_path), memory)
    assert memory.entries == {}


def test_a_folder_counts_with_the_names_and_bytes_below_it(tmp_path: Path) -> None:
    write(tmp_path / "images" / "deep" / "a.png", "a")
    write(tmp_path / "images" / "b.png", "b")

    def digest() -> str:
        return source_digests(stage(tmp_path), Memory())["images"]

    first = digest()
    assert digest() == first
    (tmp_path / "images" / "b.png").rename(tmp_path / "images" / "c.png")
    renamed = digest()
    write(tmp_path / "images" / "c.png", "other")
    assert len({first, renamed, digest()}) == 3


def test_a_missing_file_is_named_with_its_stage(tmp_path: Path) -> None:
    def missing(config: Config) -> Mapping[str, Path]:
        return {"annotations": Path(config.folder) / "absent.jsonl"}

    with pytest.raises(RecipeError, match=r"stages\.ingested\.config \(annotations\): found no file '.*absent\.jsonl'"):
        source_digests(stage(tmp_path, missing), Memory())


def test_an_error_of_a_kind_is_named_with_its_stage(tmp_path: Path) -> None:
    def unsure(config: Config) -> Mapping[str, Path]:
        raise ValueError("two formats; say which")

    with pytest.raises(RecipeError, match=r"stages\.ingested\.config: cannot list .*: two formats; say which"):
        source_digests(stage(tmp_path, unsure), Memory())


def test_a_missing_folder_that_a_kind_lists_is_named_with_its_stage(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.ingested\.config: cannot list the files that 'ingest' reads"):
        source_digests(stage(tmp_path / "absent"), Memory())
