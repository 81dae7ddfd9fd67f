"""The process of a plain training worker ends with its driver, whatever it is doing."""

import subprocess
import sys
from multiprocessing.connection import Pipe
from pathlib import Path

import psutil

from stages.training.config import LoopConfig
from stages.training.workers.process_worker import EXIT_ORPHANED
from stages.training.workers.worker import worker_settings
from tests.stages.training.stage_context import TrainingContext
from tests.stages.training.toy import ToyProgram, ToyTask


def test_a_worker_whose_driver_is_gone_ends_in_the_middle_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    task = ToyTask(log=str(tmp_path / "steps"), hold=str(tmp_path / "hold"))
    settings = worker_settings(
        ToyProgram, task, LoopConfig(steps=4, micro_batches_per_step=2, seed=1), TrainingContext(tmp_path)
    )
    here, there = Pipe()
    command = [sys.executable, "-m", "stages.training.workers.process_worker", str(there.fileno())]
    with subprocess.Popen(
        command, pass_fds=(there.fileno(),), env={"PYTHONPATH": ":".join(filter(None, sys.path))}
    ) as worker:
        there.close()
        here.send((settings, 0, 1))
        told = [here.recv(), here.recv(), here.recv()]
        if [kind for kind, _ in told] != ["notice", "notice", "steps"]:
            worker.kill()
        assert told[2] == ("steps", (0, [(0, {})])), told
        while not (tmp_path / "steps").exists():
            assert psutil.pid_exists(worker.pid)
        here.close()
        assert worker.wait(60) == EXIT_ORPHANED
