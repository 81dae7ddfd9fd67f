"""The log of a worker process, real processes: what they log, print in any way, and leave when they are killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.store import Store

SCRIPT = """
import logging, os, subprocess, sys, time
from pathlib import Path
from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.store import open_store
logs = RunLogs(store=open_store(sys.argv[1]), state=Path(sys.argv[2]), run_id="r")
log = logs.of_workers("r-one-1-1", Path(sys.argv[3])).open("worker-7")
token = "hf_" + "aB3dE6gH9" * 4
logging.getLogger("stage").info("logged %s", token)
print("printed", token)
subprocess.run(["sh", "-c", "echo by a child"], check=True)
os.write(2, b"by a library\\n")
if sys.argv[4] == "raise":
    raise RuntimeError(f"broken {token}")
if sys.argv[4] == "abort":
    os.abort()
log.close()
"""
TOKEN = "hf_" + "aB3dE6gH9" * 4


def work(store: Store, tmp_path: Path, end: str) -> tuple[int, str]:
    logs = RunLogs(store=store, state=tmp_path, run_id="r")
    logs.folder.mkdir(parents=True)
    arguments = [str(store.local("")), str(tmp_path), str(tmp_path / "scratch"), end]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert TOKEN not in done.stdout + done.stderr
    logs.finish("r-one-1-1", tmp_path / "scratch")
    return done.returncode, logs.folder.joinpath("one-1-1.worker-7.log").read_text()


@pytest.mark.parametrize(("end", "code"), [("well", 0), ("raise", 1), ("abort", -signal.SIGABRT)])
def test_all_that_a_worker_says_is_in_its_log_however_it_ends(
    local_store: Store, tmp_path: Path, end: str, code: int
) -> None:
    returned, text = work(local_store, tmp_path, end)
    assert returned == code
    for said in ("stage: logged ***", "output: printed ***", "output: by a child", "output: by a library"):
        assert text.count(said) == 1
    assert TOKEN not in text
    if end == "raise":
        assert "RuntimeError: broken ***" in text
    if end == "abort":
        assert "Fatal Python error: Aborted" in text


def test_a_worker_on_another_machine_logs_to_a_file_of_its_own(memory_store: Store, tmp_path: Path) -> None:
    logs = RunLogs(store=memory_store, state=tmp_path / "not-here", run_id="r")
    pid = os.fork()
    if pid == 0:  # this process's descriptors 1 and 2 belong to pytest
        code = 1
        try:
            log = logs.of_workers("r-one-1-1", tmp_path / "scratch").open("worker-7")
            code = (
                0 if log.file.path.parent != logs.folder and log.file.path.name.startswith("one-1-1.worker-7-") else 2
            )
            log.close()
            keys = [item.key for item in memory_store.list("runs/r/logs")]
            code = code or (0 if not keys else 3)  # nothing was said
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
