"""Errors as pages: what was found, what was expected, what to do."""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator.errors import DatabaseError, OrchestratorError, RecipeError, StoreError
from orchestrator.history.run_store import AlreadyDoneError, StateConflictError
from orchestrator.web.page import BadRequestError, NotFoundError
from orchestrator.web.rendering import render
from orchestrator.web.sign_in.identify import DeniedError
from orchestrator.web.views.problem import ProblemView

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[OrchestratorError], int, str], ...] = (
    (NotFoundError, 404, "Not found"),
    (BadRequestError, 400, "This cannot be asked"),
    (AlreadyDoneError, 409, "Somebody was faster"),
    (StateConflictError, 409, "This cannot be done any more"),
    (RecipeError, 409, "This cannot be done"),
    (DatabaseError, 503, "The database is away"),
    (StoreError, 503, "The store cannot be used"),
)
_MESSAGES = {
    404: "Nothing is at this address. The pages are named above; the addresses of the API are in /api/v1/openapi.json.",
    405: "This address does not take this method: pages are asked for by GET, what changes something is sent by POST; "
    "see /api/v1/openapi.json.",
}
RETRY_S = 3


def problem_of(error: Exception) -> ProblemView:
    if isinstance(error, DeniedError):
        return ProblemView(status=error.status, title=error.status.phrase, message=str(error))
    for kind, status, title in _STATUS:
        if isinstance(error, kind):
            return ProblemView(status=status, title=title, message=str(error), retry_s=RETRY_S if status == 503 else 0)
    if isinstance(error, OrchestratorError):
        return ProblemView(status=500, title="This failed", message=str(error))
    if isinstance(error, HTTPException):
        return ProblemView(status=error.status_code, title=error.detail, message=_MESSAGES.get(error.status_code, ""))
    message = f"{type(error).__name__}; the traceback is in the log of the service"
    return ProblemView(status=500, title="This is a bug in illume", message=message)


def problem_response(request: Request, error: Exception) -> Response:
    """The error as a page, or as JSON under `/api`. A bug's text stays in the log: it may hold anything."""
    problem = problem_of(error)
    if isinstance(error, DeniedError):
        request.state.denied = str(error)  # the guard records it
    if request.url.path.startswith("/api/"):
        found = {"format": 1, "error": problem.title, "message": problem.message}
        response: Response = JSONResponse(found, status_code=problem.status)
    else:
        response = render(request, "problem.html", problem, status=problem.status)
    if problem.retry_s:
        response.headers["Retry-After"] = str(problem.retry_s)
    return response
