"""The process that answers a question: `python -m orchestrator.web.questions.process FOLDER`.

It runs one command line, as a person would type it, and outlives the service that started it. Two run at a time on one
machine; the others wait for their turn. The samples of steps have two places of their own: they take seconds, and do
not wait for a question that takes hours.
"""

import fcntl
import importlib
import json
import logging
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from orchestrator.actor import ACTOR_VARIABLE
from orchestrator.web.questions.records import LOCK, OUT, PROGRESS, QUESTION, SAMPLES, put_end

NUM_SLOTS = 2
POLL_S = 0.2
STARTED = b"."  # written to standard output once the lock is held


def main() -> None:
    folder = Path(sys.argv[1])
    question = json.loads((folder / QUESTION).read_text())
    with ExitStack() as stack:
        lock = stack.enter_context((folder / LOCK).open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(1, STARTED)
        _redirect(folder / OUT, 1)
        _redirect(folder / PROGRESS, 2)
        os.environ[ACTOR_VARIABLE] = str(question["asked_by"])
        stack.enter_context(_slot(folder.parent, "quick" if question["kind"] == SAMPLES else "slot"))
        logging.getLogger("orchestrator").setLevel(logging.INFO)
        command_line = importlib.import_module("orchestrator.cli")  # a front door beside this one: started, not used
        code = command_line.exit_code(["--verbose", *question["arguments"], *question["where"]])
        sys.stdout.flush()
        put_end(folder, code)


def _redirect(path: Path, number: int) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, number)
    os.close(target)


def _slot(folder: Path, sort: str) -> IO[str]:
    """One of the places of its sort at which questions are answered, held until it is closed. Waits for it."""
    files = [(folder / f".{sort}-{number}").open("a") for number in range(NUM_SLOTS)]
    while True:
        for file in files:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for other in files:
                if other is not file:
                    other.close()
            return file
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
