"""What signals ask of a command; that of whole drivers is in `tests/chaos/test_signals.py`."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from orchestrator.commands.shared.stopping import GRACE_S, StopSignals, grace_s
from orchestrator.errors import EXIT_REQUEUE, RecipeError

# Never ends by itself. Arguments: the seconds that there are, the signals that it sends itself.
PROGRAM = """
import os, signal, sys, threading, time
from orchestrator.commands.shared.stopping import StopSignals

with StopSignals(grace_s=float(sys.argv[1])) as signals:
    signals.begin()
    for name in sys.argv[2].split(","):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.05)
    print("sent", flush=True)
    signals.events.out_of_time.wait(60)
    threading.Event().wait(60)
"""


def run(grace: str, *signals: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, grace, ",".join(signals)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(
    ("of_profile", "variable", "expected"), [(None, "", GRACE_S), (7.0, "", 7.0), (7.0, "12.5", 12.5), (None, "0", 0.0)]
)
def test_the_variable_counts_before_the_profile(of_profile: float | None, variable: str, expected: float) -> None:
    assert grace_s(of_profile, {"ILLUME_STOP_GRACE_S": variable}) == expected


@pytest.mark.parametrize("text", ["30s", "-1", "nan", "inf"])
def test_a_variable_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"ILLUME_STOP_GRACE_S: found .* expected seconds"):
        grace_s(None, {"ILLUME_STOP_GRACE_S": text})


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_before_the_work_begins_a_signal_ends_the_command_with_the_code_of_a_stop(name: str) -> None:
    program = f"""
import os, signal, time
from orchestrator.commands.shared.stopping import StopSignals
with StopSignals():
    os.kill(os.getpid(), signal.{name})
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == EXIT_REQUEUE
    assert "stopped before anything ran" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_work_that_does_not_end_is_left_in_time(name: str) -> None:
    done = run("1", name)
    assert done.returncode == EXIT_REQUEUE
    assert "stopping at the next commit point within 1 s" in done.stderr
    assert "stopped at once" not in done.stderr


def test_a_second_signal_of_the_same_kind_ends_the_process_at_once() -> None:
    done = run("0", "SIGTERM", "SIGTERM")
    assert done.returncode == EXIT_REQUEUE
    assert "stopped at once" in done.stderr
    assert "sent" not in done.stdout


def test_signals_of_two_kinds_are_no_repetition() -> None:
    """systemd sends both, right after one another."""
    done = run("1", "SIGTERM", "SIGHUP")
    assert done.returncode == EXIT_REQUEUE
    assert "sent" in done.stdout


def test_ctrl_c_sets_no_limit() -> None:
    with StopSignals(grace_s=0.01) as signals:
        signals.begin()
        signal.raise_signal(signal.SIGINT)
        assert not signals.events.out_of_time.wait(0.2)
        assert signals.events.stop.is_set()


def test_a_terminal_that_has_gone_raises_no_errors() -> None:
    """Writing to it fails from then on, in whatever thread."""
    controller, terminal = os.openpty()
    program = """
import os, sys, time
from orchestrator.commands.shared.stopping import StopSignals
with StopSignals(grace_s=0) as signals:
    signals.begin()
    os.write(int(sys.argv[1]), b"ready")
    assert signals.events.stop.wait(30)
    print("a line of the live table", flush=True)
    sys.stderr.write("a line of the log")
    sys.stderr.flush()
sys.exit(85)
"""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", program, str(writer)]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, pass_fds=[writer])
    assert os.read(reader, 5) == b"ready"
    os.close(terminal)
    os.close(controller)  # its end hangs up
    process.send_signal(signal.SIGHUP)
    assert process.wait(50) == EXIT_REQUEUE
    os.close(reader)
    os.close(writer)


def test_the_former_handlers_come_back_and_no_thread_stays() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    num_threads = threading.active_count()
    with StopSignals(grace_s=0) as signals:
        signals.begin()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    for thread in threading.enumerate():
        if thread.name == "signals":
            thread.join(10)
    assert threading.active_count() <= num_threads
