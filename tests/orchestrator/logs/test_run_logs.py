import logging
import threading
from pathlib import Path

from orchestrator.logs.run_logs import RunLogs
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore

RUN = "run-1"


def logs_of(store: Store, state: Path) -> RunLogs:
    return RunLogs(store=store, state=state, run_id=RUN)


def test_each_attempt_has_only_its_own_lines(local_store: Store, tmp_path: Path) -> None:
    logs, log = logs_of(local_store, tmp_path), logging.getLogger("stage")

    def attempt(name: str, inside: threading.Event, leave: threading.Event) -> None:
        with logs.capture(f"{RUN}-{name}"):
            inside.set()
            assert leave.wait(10)
            log.info("by %s", name)

    events = {name: (threading.Event(), threading.Event()) for name in ("one-1-1", "two-1-1")}
    threads = [threading.Thread(target=attempt, args=(name, *pair)) for name, pair in events.items()]
    for thread in threads:
        thread.start()
    for inside, _ in events.values():
        assert inside.wait(10)
    for _, leave in events.values():
        leave.set()
    for thread in threads:
        thread.join()
    texts = {file.name: file.read_text() for file in logs.files()}
    assert texts.keys() == {"one-1-1.log", "two-1-1.log"}
    for name, text in texts.items():
        assert [line.rpartition(": ")[2] for line in text.splitlines()] == [f"by {name.removesuffix('.log')}"]


def test_logs_of_a_remote_store_are_uploaded_and_read_on_another_machine(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    logs = logs_of(memory_store, tmp_path / "here")
    with logs.capture(f"{RUN}-one-1-1"):
        logging.getLogger("stage").warning("at work")
        stem = logs.stem(f"{RUN}-one-1-1")
        Path(f"{stem}.worker-7.log").write_text("from a worker")
        Path(f"{stem}.worker-8.log").write_text("")
        logs.finish(f"{RUN}-one-1-1", tmp_path / "scratch")
    assert not Path(f"{stem}.worker-8.log").exists()
    found = logs_of(memory_store, tmp_path / "elsewhere").files()
    assert [file.name for file in found] == ["one-1-1.log", "one-1-1.worker-7.log"]
    assert "at work" in found[0].read_text()
    assert found[1].read_text() == "from a worker"


def test_an_attempt_runs_without_a_log_if_the_folder_cannot_be_made(memory_store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    ran = False
    with logs_of(memory_store, tmp_path).capture(f"{RUN}-one-1-1"):
        ran = True
    assert ran
