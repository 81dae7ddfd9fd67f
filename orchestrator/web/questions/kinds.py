"""Which questions can be asked, and the command line of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.commands.shared.options import known_recipes
from orchestrator.documents.suggestions import expectation
from orchestrator.web.page import BadRequestError

MAX_TEXT = 200  # characters of a field
Fields = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class QuestionKind:
    name: str
    summary: str  # one sentence
    fields: Mapping[str, str]  # name -> what it means
    required: tuple[str, ...]
    arguments: Callable[[Fields], list[str]]  # raises BadRequestError
    choices: tuple[str, ...] = ()  # fields that are "yes" or absent


def _plan(fields: Fields) -> list[str]:
    recipe = fields["recipe"]
    known = known_recipes()
    if recipe not in known:  # never a path: the service would read any file for whoever asks
        raise BadRequestError(f"recipe: found {recipe!r}, {expectation(recipe, known)}")
    return ["plan", recipe]


def _verify(fields: Fields) -> list[str]:
    quick = ["--quick"] if fields.get("quick") else []
    return ["verify", *quick, *([_word(fields, "target")] if fields.get("target") else [])]


def _compare(fields: Fields) -> list[str]:
    return ["diff", _word(fields, "run"), _word(fields, "other")]


def _trace(fields: Fields) -> list[str]:
    what = _word(fields, "what")
    if "/" in what or Path(what).exists():
        raise BadRequestError(f"what: found {what!r}, expected a sample's id or the SHA-256 of an image, no file")
    return ["trace", what, *(["--run", _word(fields, "run")] if fields.get("run") else [])]


def _lineage(fields: Fields) -> list[str]:
    return ["lineage", _word(fields, "target")]


KINDS: Mapping[str, QuestionKind] = {
    kind.name: kind
    for kind in (
        QuestionKind(
            name="plan",
            summary="What a recipe would run, what it would reuse, and why.",
            fields={"recipe": "Name of a recipe"},
            required=("recipe",),
            arguments=_plan,
        ),
        QuestionKind(
            name="compare",
            summary="What differs between two runs: recipe, code, data, metrics, time.",
            fields={"run": "A run", "other": "Another run"},
            required=("run", "other"),
            arguments=_compare,
        ),
        QuestionKind(
            name="trace",
            summary="Which datasets, tokens, steps and models have seen a sample.",
            fields={"what": "Id of a sample, or SHA-256 of an image", "run": "A run (default: the newest)"},
            required=("what",),
            arguments=_trace,
        ),
        QuestionKind(
            name="lineage",
            summary="What an artifact was made from, and what was made from it.",
            fields={"target": "RUN:STAGE, or first digits of an identity"},
            required=("target",),
            arguments=_lineage,
        ),
        QuestionKind(
            name="verify",
            summary="Whether what is in the store is what was committed.",
            fields={"target": "RUN:STAGE (default: everything)", "quick": "Compare lengths only"},
            required=(),
            arguments=_verify,
            choices=("quick",),
        ),
    )
}


def arguments_of(name: str, fields: Fields) -> list[str]:
    """The command line of a question. Raises: BadRequestError: it cannot be asked."""
    kind = KINDS.get(name)
    if kind is None:
        raise BadRequestError(f"kind: found {name!r}, {expectation(name, KINDS)}")
    for field, value in fields.items():
        if field not in kind.fields:
            raise BadRequestError(f"{name}: found the field {field!r}, {expectation(field, kind.fields)}")
        if len(value) > MAX_TEXT:
            raise BadRequestError(f"{name}: {field}: found {len(value)} characters, expected at most {MAX_TEXT}")
    missing = [field for field in kind.required if not fields.get(field, "").strip()]
    if missing:
        raise BadRequestError(f"{name}: {', '.join(missing)} is missing")
    return kind.arguments({field: value.strip() for field, value in fields.items()})


def _word(fields: Fields, name: str) -> str:
    """The value of a field. Raises: BadRequestError: it would be an option of the command line."""
    value = fields[name]
    if value.startswith("-"):
        raise BadRequestError(f"{name}: found {value!r}, expected no '-' at its start")
    return value
