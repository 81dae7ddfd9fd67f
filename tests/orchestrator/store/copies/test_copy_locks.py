import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from orchestrator.store.copies.copy_locks import deleting, hold, let_go, making, release

KILLED_MAKER = """
import pathlib, sys, time
from orchestrator.store.copies.copy_locks import hold, making
cache = pathlib.Path(sys.argv[1])
hold(cache, "held")
with making(cache, "made"):
    print("locked", flush=True)
    time.sleep(60)
"""


def is_unused(cache: Path, data_key: str) -> bool:
    with deleting(cache, data_key) as found:
        return found


def test_a_copy_is_in_use_until_every_holder_has_let_go(tmp_path: Path) -> None:
    hold(tmp_path, "a", "first")
    hold(tmp_path, "a", "second")
    hold(tmp_path, "b", "second")
    assert not is_unused(tmp_path, "a")
    release(tmp_path, "first")
    assert not is_unused(tmp_path, "a")
    let_go(tmp_path, "a", "second")
    assert is_unused(tmp_path, "a")
    assert not is_unused(tmp_path, "b")
    release(tmp_path, "second")
    assert is_unused(tmp_path, "b")


def test_a_thousand_copies_take_one_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        hold(tmp_path, f"copy-{number}", "reader")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert not any(is_unused(tmp_path, f"copy-{number}") for number in range(1000))
    release(tmp_path, "reader")


def test_one_of_many_makes_while_the_others_wait(tmp_path: Path) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def make() -> None:
        nonlocal inside, most
        with making(tmp_path, "copy") as is_alone:
            assert is_alone
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED_MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert not is_unused(tmp_path, "held")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert is_unused(tmp_path, "held")
    with making(tmp_path, "made") as is_alone:
        assert is_alone
