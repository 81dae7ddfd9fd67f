"""What a page is: an address, what may be asked of it, the view that answers, a template, and who may look."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.documents.suggestions import expectation
from orchestrator.errors import OrchestratorError
from orchestrator.web.service import Service
from orchestrator.web.sign_in.users import Role

Query = TypeVar("Query")
MAX_DIGITS = 18
PART = "part"  # of an address: only this block of the template


class NotFoundError(OrchestratorError):
    """What a page is about does not exist, or does not exist any more."""


class BadRequestError(OrchestratorError):
    """An address or a form with a value that cannot be used."""


def whole_number(text: str) -> int:
    """A number of at most 18 digits, as databases hold them. Raises: ValueError."""
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise ValueError(f"found {text[:80]!r}, expected a whole number of at most {MAX_DIGITS} digits")
    return int(text)


@dataclass(frozen=True)
class Page(Generic[Query]):
    """A page at `path`, and the same view as JSON at `/api/v1` + `path`.

    `query` is a frozen dataclass: its fields are the parts of the path in braces and what may follow `?`.
    """

    name: str  # of the template, `<name>.html`
    path: str
    query: type[Query]
    view: type[Any]  # a frozen dataclass
    load: Callable[[Service, Query], Any]
    summary: str  # one sentence, for the description of the API
    role: Role = Role.VIEWER

    @cached_property
    def _adapter(self) -> TypeAdapter[Query]:
        return TypeAdapter(self.query)

    def parse(self, path: Mapping[str, Any], query: Mapping[str, str]) -> Query:
        """What is asked. Raises: BadRequestError: a name that the page does not know, or a value of another type."""
        known = set(getattr(self.query, "__dataclass_fields__", {})) - set(path)  # every query is a dataclass
        for name in query:
            if name not in known:
                raise BadRequestError(f"address: found {name!r}, {expectation(name, known)}")
        try:
            return self._adapter.validate_python({**query, **path})
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"]))
            raise BadRequestError(f"address: {where}: found {found['input']!r}: {found['msg']}") from None
