"""Each mistake and each failure gives one clear message and the right exit code, and loses nothing committed."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import exit_code
from orchestrator.errors import EXIT_INFRASTRUCTURE, EXIT_UNUSABLE
from tests.end_to_end.desk import Answer, Desk
from tests.orchestrator import conftest as orchestrator_fixtures

Illume = Callable[..., Answer]

# Drawn slowly enough to break something in the middle, shard by shard.
DRAWING = """\
name: drawing
stages:
  shapes:
    kind: generate_shapes
    config: {seed: 1, understanding: 0, generation: 960, editing: 0, text: 0, lines_per_file: 24}
    retry: {attempts: 2, wait_s: 0.1}
"""
NUM_SHARDS = 42  # 40 of the train split, 2 of the other


@pytest.fixture
def illume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Illume:
    """The command line in an empty folder, run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")

    def call(*arguments: str) -> Answer:
        code = exit_code(list(arguments))
        captured = capsys.readouterr()
        return Answer(code=code, out=captured.out, err=captured.err)

    return call


@dataclass(frozen=True)
class Mistake:
    recipe: str
    message: tuple[str, ...]  # lines of standard error


MISTAKES = {
    "broken YAML": Mistake(
        "name: x\nstages:\n  a: {kind: ingest\n  b: [\n",
        ("error: x.yaml:4: broken YAML: expected ',' or '}', but got ':'",),
    ),
    "unknown stage kind": Mistake(
        "name: x\nstages:\n  a: {kind: ingset, config: {read: {source: s}, paths: [data]}}\n",
        ("error: x.yaml:3: stages.a.kind: found 'ingset' (text); no such stage kind; did you mean 'ingest'?",),
    ),
    "unknown, missing and mistyped keys": Mistake(
        "name: x\nstages:\n  a:\n    kind: generate_shapes\n    config: {undrstanding: 3, generation: many}\n",
        (
            "error: x.yaml: 3 problems",
            "  line 5: stages.a.config.seed: missing; expected a whole number",
            "  line 5: stages.a.config.generation: found 'many' (text), expected a whole number",
            "  line 5: stages.a.config.undrstanding: unknown key; did you mean 'understanding'?",
        ),
    ),
    "cycle": Mistake(
        "name: x\nstages:\n"
        "  a: {kind: curate, inputs: {records: b}, config: {anchors: [[32, 32]]}}\n"
        "  b: {kind: ingest, inputs: {raw: a}, config: {read: {source: s}}}\n",
        (
            "error: x.yaml: 2 problems",
            "  line 2: stages: found a cycle: a -> b -> a; a stage cannot need itself",
            "  line 4: stages.b.inputs.raw: needs 'raw@1', but 'a' makes 'dataset@1'",
        ),
    ),
    "missing file": Mistake(
        "name: x\nstages:\n  a: {kind: ingest, config: {read: {source: s}, paths: [absent/data.jsonl]}}\n",
        (
            "error: stages.a.config: cannot list the files that 'ingest' reads: absent/data.jsonl: found nothing to "
            "ingest, expected .jsonl or .tar or .parquet or .arrow or .csv files (read.format: auto)",
        ),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_recipe_ends_with_2_before_anything_runs(illume: Illume, tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    (tmp_path / "x.yaml").write_text(mistake.recipe)
    answer = illume("run", "x.yaml")
    assert (answer.err.splitlines(), answer.code) == ([*mistake.message], 2)
    assert answer.out == ""


def test_a_missing_recipe_ends_with_2(illume: Illume) -> None:
    answer = illume("run", "absent.yaml")
    assert answer.err == "error: absent.yaml: found no such recipe file; `illume recipes` lists the built-in ones\n"
    assert answer.code == 2


@pytest.mark.parametrize(
    ("place", "option", "parts"),
    [
        (
            "file/store",
            "--store",
            ["file/store: cannot write", "A file exists where a folder is needed", "move it away"],
        ),
        ("postgresql://me:secret@127.0.0.1:1/x", "--database", ["me:***@", "refused", "illume index rebuild"]),
        ("file", "--database", ["database file: file is not a database", "illume index rebuild"]),
        ("gopher://x", "--store", ["found an address that starts with 'gopher://'", "expected a local path"]),
    ],
    ids=["unwritable store", "dead database", "no database", "unknown store"],
)
def test_an_unusable_location_is_named_before_anything_runs(
    illume: Illume, tmp_path: Path, place: str, option: str, parts: list[str]
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4096))
    (tmp_path / "drawing.yaml").write_text(DRAWING)
    answer = illume("run", "drawing.yaml", option, place)
    assert answer.code == (EXIT_UNUSABLE if place.startswith("gopher") else EXIT_INFRASTRUCTURE)
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("error: ")
    assert [part for part in parts if part not in answer.err] == []
    assert "secret" not in answer.err


def test_a_store_that_ignores_put_if_absent_is_refused(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful_s3: str
) -> None:
    (tmp_path / "drawing.yaml").write_text(DRAWING)
    answer = illume("run", "drawing.yaml", "--store", forgetful_s3)
    assert answer.code == EXIT_UNUSABLE
    assert len(answer.err.splitlines()) == 1
    assert "second create" in answer.err
    assert illume("status", "--json").data["runs"] == []  # no run was begun


s3_server = orchestrator_fixtures.s3_server


@pytest.fixture
def forgetful_s3(s3_server: orchestrator_fixtures.S3Server) -> Iterator[str]:
    """The address of a store that ignores the condition of conditional writes."""
    s3_server.forget_conditions = True
    yield s3_server.url("forgetful")
    s3_server.forget_conditions = False


@pytest.fixture
def drawing(tmp_path: Path) -> Desk:
    (tmp_path / "drawing.yaml").write_text(DRAWING)
    return Desk(folder=tmp_path, environment={"ILLUME_TRACKING": "none"})


@pytest.mark.ray
def test_a_second_driver_of_a_run_is_refused_and_a_second_run_waits(drawing: Desk) -> None:
    with ExitStack() as commands:
        driver = commands.enter_context(drawing.start("run", "drawing.yaml"))
        driver.wait_until(lambda: len(drawing.shard_records("generate_shapes")) >= 1)
        with driver.pause("ShardHost"):
            refused = drawing.illume("resume", code=EXIT_INFRASTRUCTURE)
            assert len(refused.err.splitlines()) == 1
            assert f"process {driver.process.pid} on" in refused.err
            assert "is running it; watch it with `illume status" in refused.err
            other = commands.enter_context(drawing.start("run", "drawing.yaml"))
            other.wait_until(lambda: "waiting" in {event["kind"] for event in drawing.events()})
        driver.finish()
        last_words = other.finish()
    runs = drawing.illume("status", "--json").data["runs"]
    assert [run["state"] for run in runs] == ["SUCCEEDED", "SUCCEEDED"]
    waited = [event["kind"] for event in drawing.events(runs[0]["run_id"])]
    assert {"waiting", "stage_reused"} <= set(waited)
    assert "attempt_state" not in waited
    assert "is done" in last_words


@pytest.mark.ray
def test_a_database_that_breaks_during_a_run_loses_nothing_committed(drawing: Desk) -> None:
    index = drawing.folder / ".illume" / "index.db"
    with drawing.start("run", "drawing.yaml") as driver:
        driver.wait_until(lambda: len(drawing.shard_records("generate_shapes")) >= 3)
        for file in (index, index.with_name("index.db-wal")):
            overwrite(file)
        assert driver.process.wait(120) == EXIT_INFRASTRUCTURE
        lines = driver.log.read_text().splitlines()
    made = drawing.shard_records("generate_shapes")
    assert lines[-1].startswith("error: database ")
    assert "move it away and run `illume index rebuild`" in lines[-1]
    assert len(lines) == len(set(lines))
    for file in index.parent.glob("index.db*"):
        file.unlink()
    drawing.illume("index", "rebuild")
    drawing.illume("run", "drawing.yaml")
    assert drawing.actions("drawing.yaml") == {"shapes": "reuse"}
    assert drawing.shard_records("generate_shapes") >= made
    tries = list(drawing.store.glob("shards/generate_shapes/*/*/*/data"))
    assert len(tries) == NUM_SHARDS  # each shard was made once


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounting.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.ray
def test_a_disk_that_fills_up_loses_nothing_committed(drawing: Desk, small_disk: Path) -> None:
    store = ["--store", str(small_disk / "store")]
    ballast = small_disk / "ballast"

    def records() -> set[str]:
        return {file.stem for file in (small_disk / "store" / "shards").glob("*/*/*.json")}

    with drawing.start("run", "drawing.yaml", *store) as driver:
        driver.wait_until(lambda: len(records()) >= 3)
        fill(ballast)
        assert driver.process.wait(120) == EXIT_INFRASTRUCTURE
        message = driver.log.read_text()
    made = records()
    assert 3 <= len(made) < NUM_SHARDS
    assert "No space left on device" in message or "disk is full" in message
    assert "Traceback" not in message
    assert "mistake in illume" not in message
    again = drawing.illume("run", "drawing.yaml", *store, code=EXIT_INFRASTRUCTURE)  # refused before anything is spent
    assert "the disk is full" in again.err
    assert "illume gc" in again.err
    ballast.unlink()
    drawing.illume("run", "drawing.yaml", *store)
    planned = [event["fields"] for event in drawing.events() if event["kind"] == "shards_planned"]
    assert planned[-1]["reused"] >= len(made)
    assert drawing.illume("verify", "--json", *store).data["problems"] == []


def overwrite(file: Path) -> None:
    """Replace the content of a file by junk."""
    with file.open("r+b") as stream:
        num_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        stream.write(os.urandom(num_bytes))


def fill(file: Path) -> None:
    """Use up the space of the disk."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
