"""Real servers with a real queue: turns, priorities, and servers and drivers that are killed."""

import os
import signal
from pathlib import Path

import pytest

from tests.orchestrator.scheduler.serving import place


def driver_of(run_id: str) -> int | None:
    """The process that drives a run."""
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
        except OSError:
            continue
        if b"resume" in command and run_id.encode() in command:
            return int(folder.name)
    return None


@pytest.mark.timeout(900)  # it takes half a minute; a loaded machine starts its ten processes slowly
def test_two_servers_share_the_work_and_survive_each_other(tmp_path: Path) -> None:
    with place(tmp_path, "kind: local\ncpus: 2\n") as queue:
        low = queue.submit("low", cpus=2, until=str(tmp_path / "go"))
        first = queue.serve()
        queue.wait(lambda: queue.states()[low] == "RUNNING")
        small = queue.submit("small", person="bob")
        (entry,) = [found for found in queue.illume("queue", "--json")["entries"] if found["run_id"] == small]
        assert entry["waits_for"] == "1 CPUs: 2 of 2 are taken"
        high = queue.submit("high", "--priority", "5", person="bob", cpus=2)
        queue.wait(lambda: queue.states()[high] == "SUCCEEDED")
        stops = [str(event.fields.get("message")) for event in queue.events(low)]
        assert any(f"made room for run {high} (priority 5)" in message for message in stops)

        queue.serve()
        first.send_signal(signal.SIGKILL)
        first.wait()
        queue.wait(lambda: queue.states()[low] == "RUNNING")
        driver = driver_of(low)
        assert driver is not None
        os.kill(driver, signal.SIGKILL)
        (tmp_path / "go").touch()
        queue.wait(lambda: set(queue.states().values()) == {"SUCCEEDED"})
        for run_id in (low, small, high):
            made = [event for event in queue.events(run_id) if event.fields.get("to") == "COMMITTED"]
            assert len(made) == 1, f"run {run_id}: paid for once"
