"""Asks a question: starts the process that answers it."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.web.questions.process import STARTED
from orchestrator.web.questions.records import (
    PROGRESS,
    Question,
    forget_old,
    new_id,
    newest_same,
    put_question,
    read_questions,
    tail_of,
)
from orchestrator.web.sign_in.identify import TooOftenError

FOLDER = "questions"  # below the service's
MAX_RUNNING = 16  # each is a process; two of a sort work at a time, the others wait


def ask(
    service_folder: Path, kind: str, arguments: Sequence[str], where: Sequence[str], *, asked_by: str
) -> tuple[str, bool]:
    """The id of the question, and whether it is new: one that is being answered already is not asked again.

    Raises: TooOftenError: too many wait for an answer. OrchestratorError: the process that answers did not start.
    """
    folder = service_folder / FOLDER
    same = newest_same(folder, arguments, where)
    if same is not None and same.state == "running":
        return same.question.id, False
    asked = read_questions(folder)
    num_running = sum(found.state == "running" for found in asked)
    if num_running >= MAX_RUNNING:
        raise TooOftenError(f"{num_running} questions are being answered; ask again when some of them are")
    forget_old(asked)
    question = Question(
        id=new_id(),
        kind=kind,
        title=" ".join(arguments),
        arguments=tuple(arguments),
        where=tuple(where),
        asked_by=asked_by,
        asked_at=time.time(),
    )
    place = put_question(folder, question)
    command = [sys.executable, "-m", "orchestrator.web.questions.process", str(place)]
    with (place / PROGRESS).open("ab") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert process.stdout is not None, "it is a pipe"
    with process.stdout as started:  # so that nobody sees it before it holds its lock, and calls it killed
        if started.read(1) != STARTED:
            raise OrchestratorError(f"the process that answers did not start: {tail_of(place / PROGRESS, 2000)}")
    return question.id, True
