"""Questions that take long, and one of them with its answer."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.questions import QuestionsView, QuestionView, load_question, load_questions


@dataclass(frozen=True, kw_only=True)
class QuestionsQuery:
    run: str = ""  # to fill in


@dataclass(frozen=True, kw_only=True)
class QuestionQuery:
    question: str


def _load_all(service: Service, query: QuestionsQuery) -> QuestionsView:
    return load_questions(service, query.run)


def _load_one(service: Service, query: QuestionQuery) -> QuestionView:
    return load_question(service, query.question)


QUESTIONS = Page(
    name="questions",
    path="/questions",
    query=QuestionsQuery,
    view=QuestionsView,
    load=_load_all,
    summary="The questions that can be asked, and those that were.",
)
QUESTION = Page(
    name="question",
    path="/questions/{question}",
    query=QuestionQuery,
    view=QuestionView,
    load=_load_one,
    summary="A question: its progress and its answer.",
)
