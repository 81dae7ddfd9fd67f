"""Worker processes as copies of one template: what they inherit, how they end, and what happens without a template."""

import signal
import subprocess
import sys
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import psutil
import pytest

from stages.training.workers.worker_process import ForkedWorker, WorkerProcess, start_worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only; run it there")
PLUGIN = """
import os
from pathlib import Path
Path("seen").write_text(f"{os.environ['COLOUR']} {os.environ['CUDA_VISIBLE_DEVICES']!r} {os.getppid()}")
"""
PATIENCE_S = 60.0


def started(folder: Path, *, module: str = "stages.training.program", plugin: Path | None = None) -> WorkerProcess:
    """A worker that waits for its settings; it ends as soon as the test has no end of the pipe any more."""
    ours, theirs = Pipe()
    with theirs:
        worker = start_worker(theirs.fileno(), folder / "worker.log", module=module, plugin=plugin)
    _OPEN.append(ours)
    return worker


_OPEN: list[object] = []


@pytest.fixture(autouse=True)
def _close_pipes() -> object:
    yield
    _OPEN.clear()


def parent_of(worker: WorkerProcess) -> psutil.Process:
    parent = psutil.Process(worker.pid).parent()
    assert parent is not None
    return parent


def test_workers_are_copies_of_one_template_with_the_environment_of_their_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started(tmp_path)
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setenv("COLOUR", "purple")
    monkeypatch.chdir(tmp_path)
    second = started(tmp_path, plugin=plugin)
    template = parent_of(first)
    assert template == parent_of(second) != psutil.Process()
    give_up_at = time.monotonic() + PATIENCE_S
    while not (tmp_path / "seen").exists() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert (tmp_path / "seen").read_text() == f"purple '' {template.pid}"


def test_the_ends_of_workers_are_known(tmp_path: Path) -> None:
    killed, ended = started(tmp_path), started(tmp_path)
    assert (killed.poll(), ended.poll()) == (None, None)
    killed.kill()
    killed.kill()
    assert killed.wait() == killed.poll() == -signal.SIGKILL
    assert ended.poll() is None
    _OPEN.clear()
    assert ended.wait() == 1


def test_a_module_that_cannot_be_imported_is_left_to_a_new_process_which_reports_it(tmp_path: Path) -> None:
    worker = started(tmp_path, module="no.such.module")
    assert isinstance(worker, subprocess.Popen)
    worker.kill()
    worker.wait()
    assert isinstance(started(tmp_path), ForkedWorker)


def test_a_killed_template_is_replaced(tmp_path: Path) -> None:
    first = started(tmp_path)
    parent_of(first).kill()
    second = started(tmp_path)
    third = second if isinstance(second, ForkedWorker) else started(tmp_path)
    if isinstance(second, subprocess.Popen):
        second.kill()
        second.wait()
    assert isinstance(third, ForkedWorker)
    assert first.poll() == -signal.SIGKILL
    assert third.poll() is None
