"""Questions: those that were asked, and one with its progress and its answer."""

from dataclasses import dataclass
from statistics import median

from orchestrator.web.addresses import link
from orchestrator.web.page import NotFoundError
from orchestrator.web.questions.asking import FOLDER
from orchestrator.web.questions.kinds import KINDS
from orchestrator.web.questions.records import (
    OUT,
    PROGRESS,
    SAMPLES,
    Asked,
    Question,
    head_of,
    read_question,
    read_questions,
    tail_of,
)
from orchestrator.web.service import Service

MAX_ANSWER_BYTES = 256 * 1024  # on the page; the rest is downloaded
MAX_PROGRESS_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    id: str
    kind: str
    title: str
    state: str  # "running", "answered", "failed" or "killed"
    asked_by: str
    asked_at: float  # seconds since 1970
    seconds: float  # until it was answered, or until now
    link: str


@dataclass(frozen=True, kw_only=True)
class KindView:
    name: str
    summary: str
    fields: dict[str, str]  # name -> what it means
    required: tuple[str, ...]
    choices: tuple[str, ...]  # fields that are "yes" or absent


@dataclass(frozen=True, kw_only=True)
class QuestionsView:
    kinds: tuple[KindView, ...]
    questions: tuple[QuestionRow, ...]  # the newest first
    run: str  # the run that a question is about, to fill in


@dataclass(frozen=True, kw_only=True)
class QuestionView:
    row: QuestionRow
    command: str
    expected_s: float | None  # how long others of its kind took; None: there are none
    progress: str  # the last lines of its log
    answer: str
    is_whole: bool  # False: the answer is longer
    exit_code: int | None
    download: str


def load_questions(service: Service, run: str) -> QuestionsView:
    asked = read_questions(service.settings.folder / FOLDER)
    kinds = tuple(
        KindView(
            name=kind.name, summary=kind.summary, fields=dict(kind.fields), required=kind.required, choices=kind.choices
        )
        for kind in KINDS.values()
    )
    return QuestionsView(kinds=kinds, questions=tuple(_row(found) for found in asked), run=run)


def load_question(service: Service, question_id: str) -> QuestionView:
    """Raises: NotFoundError."""
    found = find_question(service, question_id)
    others = [
        other.seconds
        for other in read_questions(service.settings.folder / FOLDER)
        if other.question.kind == found.question.kind and other.state == "answered"
    ]
    answer, is_whole = head_of(found.folder / OUT, MAX_ANSWER_BYTES)
    return QuestionView(
        row=_row(found),
        command=" ".join(("illume", *found.question.arguments)),
        expected_s=median(others) if others else None,
        progress=tail_of(found.folder / PROGRESS, MAX_PROGRESS_BYTES),
        answer=answer,
        is_whole=is_whole,
        exit_code=found.end.exit_code if found.end else None,
        download=link("questions", question_id, "answer"),
    )


def find_question(service: Service, question_id: str) -> Asked:
    """Raises: NotFoundError."""
    is_name = question_id.replace("-", "").isalnum()
    found = read_question(service.settings.folder / FOLDER / question_id) if is_name else None
    if found is None:
        raise NotFoundError(f"question {question_id}: not found; the newest are kept, on the machine of the service")
    return found


def _row(asked: Asked) -> QuestionRow:
    question = asked.question
    return QuestionRow(
        id=question.id,
        kind=question.kind,
        title=question.title,
        state=asked.state,
        asked_by=question.asked_by,
        asked_at=question.asked_at,
        seconds=asked.seconds,
        link=_link(question),
    )


def _link(question: Question) -> str:
    """Of the samples of a step to its page."""
    if question.kind == SAMPLES:
        _command, target, step, *_rest = question.arguments
        run_id, _, stage_id = target.partition(":")
        return link("runs", run_id, "stages", stage_id, "steps", step)
    return link("questions", question.id)
