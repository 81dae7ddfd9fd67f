"""What a training worker reports, and how a hung one is ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from stages.training.workers import worker
from stages.training.workers.worker import BatchingReporter, Steps, kill_with_stacks, stack_file


class Link:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def register(self) -> None:
        self.calls.append("register")

    def send(self, steps: Steps) -> None:
        self.calls.append(steps)

    def fail(self, error: OrchestratorError) -> None:
        raise NotImplementedError

    def stop_requested(self) -> bool:
        return True

    def close(self) -> None:
        self.calls.append("close")


def test_steps_are_sent_in_batches_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link()
    reporter = BatchingReporter(link, rank=0)
    monkeypatch.setattr(worker, "REPORT_S", 0.0)
    reporter.started(4)
    monkeypatch.setattr(worker, "REPORT_S", 1e9)
    reporter.step(5, {"loss": 2.0})
    reporter.step(6, {"loss": 1.0})
    reporter.flush()
    reporter.flush()
    assert link.calls == ["register", [(4, {})], [(5, {"loss": 2.0}), (6, {"loss": 1.0})], []]
    assert reporter.stop_requested()


def test_only_rank_0_reports_steps_but_every_rank_learns_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link()
    monkeypatch.setattr(worker, "REPORT_S", 0.0)
    reporter = BatchingReporter(link, rank=1)
    reporter.started(4)
    reporter.step(5, {"loss": 2.0})
    assert link.calls == ["register", [], []]


SLEEPER = """
import sys, time
from pathlib import Path
from stages.training.workers.worker import dump_stacks_on_signal
dump_stacks_on_signal(Path(sys.argv[1]))
def waits_for_ever():
    print("ready", flush=True)
    time.sleep(1000)
waits_for_ever()
"""


def test_a_hung_process_is_killed_after_writing_its_stacks(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "in waits_for_ever" in kill_with_stacks(process.pid, tmp_path)
    assert process.returncode == -9
    assert stack_file(tmp_path, process.pid).exists()
    assert kill_with_stacks(process.pid, tmp_path) == "the process had already ended"
