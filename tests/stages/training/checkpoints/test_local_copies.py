"""A restart on the same node reads its own disk, if what is there is what was committed; copies stay few."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from stages.training.checkpoints import reader
from stages.training.checkpoints.local_copies import FORGOTTEN_S, LocalCopies
from stages.training.loop import run_worker
from tests.stages.training.test_loop import EVERY_5, LOOP, Recorder, checkpoints, single_worker
from tests.stages.training.toy import ToyProgram, ToyTask

STOPPED = 8  # the step of the newest checkpoint of a training that was stopped


def train(folder: Path, copies: LocalCopies | None, *, stop_after: int = -1) -> list[float]:
    recorder = Recorder(stop_after=stop_after)
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(folder),
        reporter=recorder,
        worker=single_worker(),
        copies=copies,
    )
    return [metrics["fit/loss"] for _, metrics in recorder.steps]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files, links followed, of which tensors are read."""
    found: list[Path] = []

    def recording(path: str, **settings: Any) -> Any:
        found.append(Path(path).resolve())
        return safe_open(path, **settings)

    monkeypatch.setattr(reader, "safe_open", recording)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sequence[float]:
    return train(tmp_path_factory.mktemp("undisturbed"), None)


def stopped(folder: Path) -> tuple[LocalCopies, Path]:
    """A training that was stopped, and the file of its newest checkpoint on the node's disk."""
    copies = LocalCopies(folder / "disk/training", 0)
    train(folder, copies, stop_after=STOPPED - 1)
    [copy] = (path for path in (folder / "disk").rglob("*") if path.is_file())  # that of step 5 is gone
    return copies, copy


def test_a_restart_reads_the_copy_and_the_last_step_deletes_it(
    tmp_path: Path, opened: list[Path], undisturbed: Sequence[float]
) -> None:
    copies, copy = stopped(tmp_path)
    assert train(tmp_path, copies) == list(undisturbed[STOPPED:])
    assert set(opened) == {copy.resolve()}
    assert not (tmp_path / "disk/training/rank-00000").exists()


@pytest.mark.parametrize("fault", ["damaged", "shorter", "missing", "of another training"])
def test_what_was_not_committed_is_not_read(
    fault: str, tmp_path: Path, opened: list[Path], undisturbed: Sequence[float]
) -> None:
    copies, copy = stopped(tmp_path)
    data = copy.read_bytes()
    if fault == "damaged":
        copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "shorter":
        copy.write_bytes(data[:-1])
    elif fault == "missing":
        copy.unlink()
    else:
        copies = LocalCopies(tmp_path / "disk/other", 0)
    assert train(tmp_path, copies) == list(undisturbed[STOPPED:])
    assert opened
    assert all(path.is_relative_to((tmp_path / "store").resolve()) for path in opened)


def test_a_disk_that_takes_no_copy_stops_no_training(
    tmp_path: Path, undisturbed: Sequence[float], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "disk").write_text("no folder")
    assert train(tmp_path, LocalCopies(tmp_path / "disk/training", 0)) == list(undisturbed)
    assert "no local copy of the checkpoint of step 5" in caplog.text


def test_only_what_nobody_has_continued_for_a_week_is_deleted(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path / "mine", 0)
    copies.delete_forgotten()
    for name in ("mine", "old", "young"):
        LocalCopies(tmp_path / name, 3).write(1, "worker-00003.safetensors", lambda: [b"x"])
        if name != "young":
            long_ago = time.time() - FORGOTTEN_S - 60
            for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
                os.utime(path, (long_ago, long_ago))
    copies.delete_forgotten()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "young"}
