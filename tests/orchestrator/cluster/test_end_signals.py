"""Signals that end a process, in a process that has started Ray, whose own handler would abort it with code 134."""

import signal
import subprocess
import sys

import pytest

from orchestrator.cluster.end_signals import NAMES, handle_end_signals

PROGRAM = """
import sys, threading, time
import ray
from orchestrator.cluster.end_signals import handle_end_signals, keep_handlers

def start():
    with keep_handlers():
        ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

seen = []
with handle_end_signals(seen.append):
    if sys.argv[1] == "main":
        start()
    else:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    print("ready", flush=True)
    while not seen:
        time.sleep(0.05)
    time.sleep(4.0)  # longer than the 3 s after which the alarm aborts
sys.exit(85)
"""


@pytest.mark.parametrize("number", list(NAMES))
def test_each_signal_is_handled_and_the_former_handler_comes_back(number: int) -> None:
    seen: list[int] = []
    before = signal.getsignal(number)
    with handle_end_signals(seen.append):
        signal.raise_signal(number)
    assert seen == [number]
    assert signal.getsignal(number) is before


def test_a_pending_alarm_is_switched_off() -> None:
    with handle_end_signals(lambda _number: None):
        signal.alarm(1)
        signal.raise_signal(signal.SIGTERM)
        assert signal.alarm(0) == 0


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen: list[int] = []
        with handle_end_signals(seen.append):
            signal.raise_signal(signal.SIGHUP)
        assert seen == []
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.ray
@pytest.mark.parametrize("thread", ["main", "other"])
def test_sigterm_does_not_abort_a_process_that_has_started_ray(thread: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, thread], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 85
