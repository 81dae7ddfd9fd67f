"""Signals that end a process, in a process that has started Ray, whose own handler would abort it with code 134."""

import signal
import subprocess
import sys

import pytest

from orchestrator.cluster.end_signals import NAMES, handle_end_signals

PROGRAM = """
import os, sys, threading, time
import ray
from orchestrator.cluster.end_signals import handle_end_signals, keep_handlers

def start():
    with keep_handlers():
        ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    started.set()
    if threading.current_thread() is not threading.main_thread():
        threading.Event().wait()  # Ray's processes end with the thread that started them

started = threading.Event()
seen = []
with handle_end_signals(seen.append):
    if sys.argv[1] == "main":
        start()
    else:
        threading.Thread(target=start, daemon=True).start()
        started.wait()
    print("ready", flush=True)
    while not seen:
        time.sleep(0.05)
    time.sleep(4.0)  # longer than the 3 s after which the alarm aborts
os._exit(85)
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


BUSY = """
import ctypes, os, signal, sys, threading, time
from orchestrator.cluster.end_signals import handle_end_signals

libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
noticed, handled, seen = [], [], []

def release():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3.0)  # longer than the alarm
    seen.extend([list(noticed), list(handled)])
    libc.pthread_mutex_unlock(mutex)

with handle_end_signals(handled.append, noticed.append):
    libc.pthread_mutex_lock(mutex)
    signal.alarm(2)  # as the handler of absl does
    threading.Thread(target=release).start()
    libc.pthread_mutex_lock(mutex)  # no signal interrupts it, and Python's handlers wait
assert (seen, handled) == ([[signal.SIGTERM], []], [signal.SIGTERM]), (seen, handled)
sys.exit(85)
"""


def test_an_alarm_does_not_abort_a_process_whose_main_thread_is_busy_outside_of_python() -> None:
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=60)
    assert done.returncode == 85, done.stderr


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
