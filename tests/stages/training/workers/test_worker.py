"""What a training worker reports, and how a hung one is ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from stages.training.watching.notices import Notice
from stages.training.workers import worker
from stages.training.workers.worker import BatchingReporter, Steps, take_stacks


class Link:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def register(self) -> None:
        self.calls.append("register")

    def send(self, newest_step: int, steps: Steps) -> None:
        self.calls.append((newest_step, steps))

    def notify(self, notice: Notice) -> None:
        self.calls.append(notice)

    def preempted(self) -> bool:
        return False

    def look_for_preemption(self) -> None:
        raise NotImplementedError

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
    assert link.calls == [
        "register",
        (4, [(4, {})]),
        (6, [(5, {"loss": 2.0}), (6, {"loss": 1.0})]),
        (6, []),
    ]
    assert reporter.stop_requested()


def test_only_rank_0_reports_steps_but_every_rank_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link()
    monkeypatch.setattr(worker, "SIGN_OF_LIFE_S", 0.0)
    reporter = BatchingReporter(link, rank=1)
    reporter.started(4)
    reporter.step(5, {"loss": 2.0})
    assert link.calls == ["register", (4, []), (5, [])]


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


def test_hung_processes_are_killed_after_all_have_written_their_stacks_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPER, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE) as second,
    ):
        for process in (first, second):
            assert process.stdout is not None
            process.stdout.readline()
        pids = [first.pid, second.pid]
        assert take_stacks(pids, tmp_path / "elsewhere", kill=False) == dict.fromkeys(
            pids, "no stacks: the worker is still starting"
        )  # the signal would kill it
        seen = take_stacks(pids, tmp_path, kill=False)
        again = take_stacks(pids, tmp_path, kill=True)
    assert [text.count("in waits_for_ever") for text in seen.values()] == [1, 1]
    assert [text.count("in waits_for_ever") for text in again.values()] == [1, 1]  # each time the newest only
    assert (first.returncode, second.returncode) == (-9, -9)
    assert take_stacks([first.pid], tmp_path, kill=True) == {first.pid: "the process had already ended"}
