import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.history import lease_owners as owners


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"pid": 2**22 + 1}, True),  # above the largest process id of Linux
        ({"started": 1}, True),  # the number was given to another process
        ({}, False),
        ({"pid": 2**22 + 1, "boot": "0000"}, False),  # another machine, or before a restart: wait for the end
        ({"pid": 2**22 + 1, "namespace": "pid:[1]"}, False),  # another container
        ({"pid": 2**22 + 1, "boot": ""}, False),
        ({"pid": 2**22 + 1, "namespace": ""}, False),
        ({"pid": 2**22 + 1, "started": -1}, False),  # it was not known, so the number may have been given away
        ({"pid": 1, "started": 1}, True),
    ],
)
def test_a_process_counts_as_gone_on_proof_only(change: dict[str, object], gone: bool) -> None:
    owner = replace(owners.this_process(), **change)
    if not owners.this_process().boot:
        pytest.skip("this system does not tell the id of its start")
    assert owners.is_gone(owner.text()) is gone


@pytest.mark.parametrize("owner", ["", "somebody", "{}", '{"pid": 1}', "[1]"])
def test_an_owner_text_of_another_form_never_counts_as_gone(owner: str) -> None:
    assert not owners.is_gone(owner)
    assert owners.describe(owner) == owner
    assert not owners.is_stopped(owner)
    assert owners.machine_of(owner) is None


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    """A process of this machine that does nothing; SIGHUP would end it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def owner_of(process: psutil.Process) -> owners.LeaseOwner:
    found = owners._process(process.pid)
    assert found is not None
    return replace(owners.this_process(), pid=process.pid, started=found[1])


def test_a_process_counts_as_stopped_on_proof_only(child: psutil.Process) -> None:
    owner = owner_of(child)
    assert not owners.is_stopped(owner.text())
    child.suspend()
    while child.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    assert owners.is_stopped(owner.text())
    assert not owners.is_gone(owner.text())
    unsure: list[dict[str, object]] = [
        {"boot": ""},
        {"boot": "0000"},
        {"namespace": "pid:[1]"},
        {"started": owner.started + 1},
        {"pid": 2**22 + 1},
    ]
    for change in unsure:
        assert not owners.is_stopped(replace(owner, **change).text()), change


def test_a_process_that_proc_hides_is_neither_gone_nor_stopped(
    child: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, read = owner_of(child), Path.read_text

    def hidden(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "stat":
            raise PermissionError(13, "hidden")
        return read(path, *arguments, **options)

    def of_another_user(_pid: int, _signal: int) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(Path, "read_text", hidden)
    assert not owners.is_gone(owner.text())
    assert not owners.is_stopped(owner.text())
    assert child.is_running()
    assert child.status() != psutil.STATUS_ZOMBIE  # asking has not ended it
    assert owners.is_gone(replace(owner, pid=2**22 + 1).text())
    unknown = owners.this_process()
    monkeypatch.setattr(os, "kill", of_another_user)
    assert not owners.is_gone(owner.text())
    monkeypatch.undo()
    assert not owners.is_gone(unknown.text())  # its start was hidden when it said who it is


def test_a_process_that_works_is_the_same_process() -> None:
    """Of what the system says about a process, only its start stays the same."""
    owner = owners.this_process().text()
    with mmap.mmap(-1, 2**26) as memory:
        memory.write(b"x" * 2**20)
        assert not owners.is_gone(owner)


def test_a_process_that_was_started_later_with_the_same_number_is_another_one(child: psutil.Process) -> None:
    owner = owner_of(child)
    assert owner.started > owners.this_process().started
    assert owners.is_gone(replace(owner, started=owners.this_process().started).text())
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert owners.is_gone(owner.text())


def test_a_machine_is_known_by_its_start_and_name() -> None:
    owner = replace(owners.this_process(), boot="b", host="host7")
    assert owners.machine_of(owner.text()) == ("b", "host7")
    assert owners.machine_of(replace(owner, boot="").text()) is None


def test_each_lease_of_a_process_has_an_owner_of_its_own() -> None:
    owner = owners.this_process()
    first, second = owners.with_claim(owner), owners.with_claim(owner)
    assert first != second
    assert owners.describe(first) == f"process {owner.pid} on {owner.host}"
