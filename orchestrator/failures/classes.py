"""Maps any error to the failure class that decides how it is handled (see `retries.py`).

Pure. The type of an error decides first, its error number second, its message last; the tables are in `known_types.py`
and `known_messages.py`. Errors of libraries are known by the names of their types, so that neither Ray nor torch is
imported. An error that was raised from others is as much a failure as the innermost of them that says something.
"""

import builtins
import enum
import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb, format_exception_only

from orchestrator import errors
from orchestrator.cluster.ray_hooks import PREEMPTED, WORKER_FAILURES, WRAPPED_ERRORS
from orchestrator.failures import known_messages, known_types
from orchestrator.failures.failure_class import INFRASTRUCTURE, FailureClass


class ClassifiedError(errors.OrchestratorError):
    """A failure that was classified where it happened, for example in a worker process. Made by `classified`."""

    failure: FailureClass = FailureClass.UNKNOWN


def classified(failure: FailureClass, message: str) -> ClassifiedError:
    error = ClassifiedError(message)
    error.failure = failure  # an attribute, not an argument, so that it survives pickling
    return error


_DECLARABLE = frozenset(FailureClass)  # by an error of another room, see `errors.declared_failure`
_PRECEDENCE = {failure: rank for rank, failure in enumerate(FailureClass)}
_ROOT_CAUSES = {FailureClass.PREEMPTED, FailureClass.GPU_OOM, FailureClass.HOST_OOM}  # they cause the other errors

_OWN_ERRORS: dict[type[BaseException], FailureClass] = {
    errors.PoisonError: FailureClass.DATA_POISON,
    errors.PreemptedError: FailureClass.PREEMPTED,
    errors.NodeLostError: FailureClass.NODE_LOST,
    errors.HangError: FailureClass.HANG,
    errors.NumericError: FailureClass.NUMERIC,
    errors.PrecheckError: FailureClass.PRECHECK,
    errors.RecipeError: FailureClass.PRECHECK,
    errors.NothingKeptError: FailureClass.DATA,
    errors.LeaseLostError: FailureClass.CONTROLLER_LOST,
    errors.TakenDownError: FailureClass.PRECHECK,  # only a new plan leaves the content out
    errors.StoreError: FailureClass.INFRA_TRANSIENT,  # FencedError too
    errors.RanksDisagreeError: FailureClass.INFRA_TRANSIENT,
    errors.DatabaseError: FailureClass.INFRA_TRANSIENT,
    errors.CorruptArtifactError: FailureClass.INFRA_TRANSIENT,
    errors.NewerFormatError: FailureClass.PRECHECK,
    errors.OrchestratorError: FailureClass.USER_CODE,
}


class _Weight(enum.IntEnum):
    """How much an error says about the class."""

    GENERIC = 1  # the type is Python's own, as that of a `ValueError`
    SPECIFIC = 2
    DELIBERATE = 3  # raised by this project with the class in mind


@dataclass(frozen=True)
class _Evidence:
    failure: FailureClass
    weight: _Weight


def classify(error: BaseException) -> FailureClass:
    """The class of `error`, taking into account the errors that it was raised from.

    In a chain, a preemption and lack of memory win, as they cause the other errors; then the outermost error that this
    project raised on purpose; then the innermost one that is specific; then Python's own. If there are several errors
    at once (the ranks of a training), the class with the highest precedence among the chain's and theirs decides.
    """
    links = list(_chain(error))
    evidence = [found for link in links for found in _evidence(link)]
    if any(_is_of_network(_type_names(link)) for link in links):
        evidence = [_on_its_way(found) for found in evidence]
    of_members = [classify(member) for link in links for member in _members(link)]
    candidates = [_strongest(evidence), *of_members]
    known = [failure for failure in candidates if failure is not FailureClass.UNKNOWN]
    return min(known, key=_PRECEDENCE.__getitem__, default=FailureClass.UNKNOWN)


def _strongest(evidence: Sequence[_Evidence]) -> FailureClass:
    """The class that the evidence of a chain gives, outermost first."""
    causes = [found.failure for found in evidence if found.failure in _ROOT_CAUSES]
    if causes:
        return min(causes, key=_PRECEDENCE.__getitem__)
    deliberate = [found.failure for found in evidence if found.weight is _Weight.DELIBERATE]
    specific = [found.failure for found in evidence if found.weight is _Weight.SPECIFIC]
    generic = [found.failure for found in evidence if found.weight is _Weight.GENERIC]
    if deliberate and deliberate[0] is FailureClass.DATA:  # what cannot be reached is not damaged
        return next((failure for failure in reversed(specific) if failure in INFRASTRUCTURE), FailureClass.DATA)
    if deliberate:
        return deliberate[0]
    if specific:
        return specific[-1]
    return generic[0] if generic else FailureClass.UNKNOWN


# Attributes of other libraries for the error behind an error: urllib, SQLAlchemy, Ray.
_BEHIND = ("reason", "orig", "client_exc")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, then the errors that it wraps, was raised from, or was raised while handling."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        attributes = vars(link)  # plain data, so that no property of a library's error runs
        inner = [attributes.get(name) for name in (*WRAPPED_ERRORS, *_BEHIND)]
        inner += [*link.args, link.__cause__ or (None if link.__suppress_context__ else link.__context__)]
        members = _members(link)
        pending += [found for found in inner if isinstance(found, BaseException) and found not in members]


def _members(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return list(error.exceptions)
    by_rank = vars(error).get(WORKER_FAILURES)  # WorkerGroupError of Ray Train
    return list(by_rank.values()) if isinstance(by_rank, dict) else []


def _evidence(error: BaseException) -> list[_Evidence]:
    """What one error says by itself; several findings, outermost first, if its message is a traceback."""
    if isinstance(error, ClassifiedError):
        return [] if error.failure is FailureClass.UNKNOWN else [_Evidence(error.failure, _Weight.DELIBERATE)]
    declared = errors.declared_failure(error)
    if declared in _DECLARABLE:
        return [_Evidence(FailureClass(declared), _Weight.DELIBERATE)]
    for base in type(error).__mro__:
        if base in _OWN_ERRORS:
            return [_Evidence(_OWN_ERRORS[base], _Weight.DELIBERATE)]
    if vars(error).get(PREEMPTED) is True:  # RayActorError
        return [_Evidence(FailureClass.PREEMPTED, _Weight.SPECIFIC)]
    names = _type_names(error)
    if failure := _named(names, known_types.PRECISE):
        return [_Evidence(failure, _Weight.SPECIFIC)]
    if _members(error) or any(isinstance(vars(error).get(name), BaseException) for name in WRAPPED_ERRORS):
        return []  # its message quotes errors that are classified separately
    text = _text(error)
    if (quoted := _in_traceback(text)) is not None:
        return quoted
    rules = known_messages.FOR_DEATHS if "ray:RayActorError" in names else known_messages.ALL
    found = _of_built_in(error, text) or _of_message(text, rules)
    if found is None and (failure := _by_default(names)):
        found = _Evidence(failure, _Weight.SPECIFIC)
    return [found] if found else []


def _by_default(names: Sequence[str]) -> FailureClass | None:
    """What types say whose message said nothing."""
    if failure := _named(names, known_types.BY_DEFAULT):
        return failure
    return FailureClass.INFRA_TRANSIENT if _is_of_network(names) else None


def _is_of_network(names: Sequence[str]) -> bool:
    return any(name.partition(":")[0] in known_types.NETWORK_LIBRARIES for name in names)


def _on_its_way(found: _Evidence) -> _Evidence:
    """Broken data that a client of a network met, e.g. in decoding a response, was damaged on its way."""
    if found.failure is not FailureClass.DATA_POISON or found.weight is _Weight.DELIBERATE:
        return found
    return _Evidence(FailureClass.INFRA_TRANSIENT, _Weight.SPECIFIC)


def _type_names(error: BaseException) -> list[str]:
    return [_type_name(base) for base in type(error).__mro__]


def _type_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}:{kind.__name__}"


def _named(names: Sequence[str], table: dict[str, FailureClass]) -> FailureClass | None:
    return next((table[name] for name in names if name in table), None)


def _text(error: BaseException) -> str:
    """The message, without Ray's list of what may have happened to a process."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error of a library that cannot print itself says nothing
        return ""
    return _GUESSES.sub("", text[:_MAX_TEXT])


_MAX_TEXT = 50_000  # characters
_GUESSES = re.compile(
    r"(?:Some common causes include|There are some potential root causes|Possible reasons include"
    r"|This can happen when)[^\n]*"
)


def _of_message(text: str, rules: Sequence[tuple[re.Pattern[str], FailureClass]]) -> _Evidence | None:
    lowered = text.lower()
    found = next((failure for pattern, failure in rules if pattern.search(lowered)), None)
    return _Evidence(found, _Weight.SPECIFIC) if found else None


def _of_built_in(error: BaseException, text: str) -> _Evidence | None:
    """What a type of Python's own says. None for `RuntimeError`, for `OSError` without a number, and for Ray's."""
    if type(error).__module__.partition(".")[0] == "ray":
        return None  # some of Ray's errors also derive from the class of what they wrap
    return _of_kind(type(error), text, error.errno if isinstance(error, OSError) else None)


def _of_kind(kind: type, text: str, number: int | None) -> _Evidence | None:
    if issubclass(kind, FloatingPointError):
        return _Evidence(FailureClass.NUMERIC, _Weight.SPECIFIC)
    if issubclass(kind, MemoryError):
        return _Evidence(FailureClass.HOST_OOM, _Weight.SPECIFIC)
    if issubclass(kind, ConnectionError | TimeoutError):
        return _Evidence(FailureClass.INFRA_TRANSIENT, _Weight.SPECIFIC)
    if issubclass(kind, known_types.USER_ERRORS):
        said = _of_message(text, known_messages.FOR_USER_ERRORS)
        return said or _Evidence(FailureClass.USER_CODE, _Weight.GENERIC)
    if issubclass(kind, OSError):
        missing = issubclass(kind, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        if number is None:
            number = errno.ENOENT if missing else _quoted_errno(text)
        return _of_errno(number, text)
    return None


def _quoted_errno(text: str) -> int | None:
    """The error number in a message, as HDF5 and Arrow quote it; None if it is none of this system's."""
    quoted = _NUMBER.search(text)
    number = int(quoted[1]) if quoted else None
    return number if number in errno.errorcode else None


def _of_errno(number: int | None, text: str) -> _Evidence | None:
    if number is None or number <= 0:
        return None
    if number == errno.ENOMEM or (number == errno.ENOSPC and "/dev/shm" in text):
        return _Evidence(FailureClass.HOST_OOM, _Weight.SPECIFIC)
    if number in known_types.BROKEN_NODE_ERRNOS:
        return _Evidence(FailureClass.NODE_LOST, _Weight.SPECIFIC)
    if (
        number in known_types.TRANSIENT_ERRNOS or "No usable temporary directory" in text
    ):  # full or read-only, says ENOENT
        return _Evidence(FailureClass.INFRA_TRANSIENT, _Weight.SPECIFIC)
    return _Evidence(FailureClass.USER_CODE, _Weight.GENERIC)


# A line of a traceback that names an error: "torch.OutOfMemoryError: CUDA out of memory".
_ERROR_LINE = re.compile(
    r"^(?P<name>[A-Za-z_][\w.]*?(?:Error|Exception|Exit|Interrupt|Timeout|Crashed|error)(?:\(\w+\))?)(?:: .*)?$",
    re.MULTILINE,
)
_NUMBER = re.compile(r"\[?[Ee]rrno[ =]+(\d+)")


def _in_traceback(text: str) -> list[_Evidence] | None:
    """What the errors in the text of a traceback say, outermost first; None if it is no traceback."""
    if "Traceback (most recent call last)" not in text and "ray::" not in text:
        return None
    found = []
    for match in _ERROR_LINE.finditer(text):
        module, _, name = match["name"].partition("(")[0].rpartition(".")
        until = text.find("\n\n", match.end())
        message = text[match.start() : until if until >= 0 else None]
        found.append(_of_named(module.partition(".")[0], name, message))
    return [evidence for evidence in reversed(found) if evidence] if found else None


def _of_named(module: str, name: str, message: str) -> _Evidence | None:
    """What an error says of which only the name and the message are known."""
    own = vars(errors).get(name)
    if module == "orchestrator" and own in _OWN_ERRORS:
        return _Evidence(_OWN_ERRORS[own], _Weight.DELIBERATE)
    if failure := known_types.PRECISE.get(f"{module}:{name}"):
        return _Evidence(failure, _Weight.SPECIFIC)
    kind = vars(builtins).get(name)
    if not module and isinstance(kind, type):
        number = _NUMBER.search(message)
        found = _of_kind(kind, message, int(number[1]) if number else None)
        if found:
            return found
    default = _by_default([f"{module}:{name}"])
    said = _of_message(message, known_messages.ALL)
    return said or (_Evidence(default, _Weight.SPECIFIC) if default else None)


_NODE_DEATHS = {"ray:NodeDiedError", "ray:LocalRayletDiedError"}
_NODE_DEATH_TEXT = re.compile(r"its node has died|node was (?:preempted|terminated|drained)")


def is_death_of_node(error: BaseException) -> bool:
    """Whether Ray says that a process is gone because its node is: that is no evidence against its work."""
    for link in _chain(error):
        names = {_type_name(base) for base in type(link).__mro__}
        if vars(link).get(PREEMPTED) is True or names & _NODE_DEATHS:
            return True
        if "ray:RayActorError" in names and _NODE_DEATH_TEXT.search(_text(link)):
            return True
    return False


_ERROR_NAME = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning)")


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """An error as plain data, so that it can be sent between processes even if the error cannot be pickled."""

    failure: FailureClass
    summary: str  # "ValueError: message", or the message of an error of ours; one line
    place: str  # where it was raised, "file.py:12 in function"; "" if unknown
    traceback: str  # the last frames, as text to show

    @property
    def signature(self) -> tuple[str, str]:
        """Equal for errors of the same class that were raised at the same line."""
        name = self.summary.partition(":")[0]
        return name if _ERROR_NAME.fullmatch(name) else str(self.failure), self.place


_TRACEBACK_FRAMES = 6


def report_of(error: BaseException) -> FailureReport:
    cause = _root(error)
    text = str(cause) if isinstance(cause, errors.OrchestratorError) else ""  # whose class says nothing to people
    summary = " ".join((text or "".join(format_exception_only(cause))).split())
    frames = extract_tb(cause.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    lines = [f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames[-_TRACEBACK_FRAMES:]]
    return FailureReport(
        failure=classify(error), summary=summary[:2000], place=place, traceback="\n".join([*lines, summary[:2000]])
    )


def _root(error: BaseException) -> BaseException:
    """The user's error inside Ray's wrapper; other errors unchanged."""
    cause = vars(error).get("cause")
    return cause if isinstance(cause, BaseException) else error
