"""Questions on disk: one folder for each, so that a service that is killed loses none.

<service>/questions/<id>/QUESTION.json    what was asked, by whom, when
                         lock             held by the process that answers, for as long as it lives
                         out.txt, progress.txt    what it prints and logs
                         END.json         exit code and time; without it and the lock, the process was killed
"""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import CorruptArtifactError, NewerFormatError

QUESTION, LOCK, OUT, PROGRESS, END = "QUESTION.json", "lock", "out.txt", "progress.txt", "END.json"
MAX_KEPT = 200  # questions of a kind; the oldest ones that have ended are deleted
SAMPLES = "samples"  # the kind that pages of steps ask
State = Literal["running", "answered", "failed", "killed"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked."""

    format: Literal[1] = 1
    id: str
    kind: str
    title: str  # in a few words
    arguments: tuple[str, ...]  # of the command line, without those that lead to the store
    where: tuple[str, ...]  # `--store`, `--database` and so on
    asked_by: str
    asked_at: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class End:
    format: Literal[1] = 1
    exit_code: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and what has become of it."""

    question: Question
    folder: Path
    state: State
    end: End | None

    @property
    def seconds(self) -> float:
        return (self.end.at if self.end else time.time()) - self.question.asked_at


def put_question(folder: Path, question: Question) -> Path:
    """Its folder."""
    found = folder / question.id
    found.mkdir(parents=True)
    (found / QUESTION).write_text(json.dumps(asdict(question)))
    return found


def new_id() -> str:
    """Sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def read_question(folder: Path) -> Asked | None:
    """None: there is none there, or it cannot be read."""
    try:
        question = parse_record(Question, (folder / QUESTION).read_bytes(), str(folder / QUESTION))
        is_running = is_locked(folder)  # before the end is looked for: it is written before the lock is let go of
        end = parse_record(End, (folder / END).read_bytes(), str(folder / END)) if (folder / END).exists() else None
    except (OSError, CorruptArtifactError, NewerFormatError):
        return None
    state: State = "running" if is_running and end is None else "killed"
    if end is not None:
        state = "answered" if end.exit_code == 0 else "failed"
    return Asked(question=question, folder=folder, state=state, end=end)


def read_questions(folder: Path) -> list[Asked]:
    """The newest first."""
    folders = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return [asked for found in folders if (asked := read_question(found)) is not None]


def put_end(folder: Path, exit_code: int) -> None:
    temporary = folder / f"{END}.new"
    temporary.write_text(json.dumps(asdict(End(exit_code=exit_code, at=time.time()))))
    os.replace(temporary, folder / END)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a question."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def forget_old(asked: Sequence[Asked]) -> None:
    """Delete the oldest of each kind that have ended. `asked`: the newest first."""
    known: Counter[str] = Counter()
    for found in asked:
        known[found.question.kind] += 1
        if known[found.question.kind] > MAX_KEPT and found.state != "running":
            shutil.rmtree(found.folder, ignore_errors=True)


def tail_of(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - limit))
        return file.read().decode("utf-8", "replace")


def head_of(path: Path, limit: int) -> tuple[str, bool]:
    """The first `limit` bytes of a file as text, and whether that is all of it."""
    if not path.exists():
        return "", True
    with path.open("rb") as file:
        text = file.read(limit).decode("utf-8", "replace")
    return text, path.stat().st_size <= limit


def newest_same(folder: Path, arguments: Sequence[str], where: Sequence[str]) -> Asked | None:
    """The newest question that asks the same of the same store; None: nobody has asked."""
    for found in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        asked = read_question(found)
        if asked is not None and (asked.question.arguments, asked.question.where) == (tuple(arguments), tuple(where)):
            return asked
    return None
