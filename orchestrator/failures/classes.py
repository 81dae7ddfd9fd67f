"""Failure classes: maps any error to the class that decides how it is handled (see `retries.py`).

Pure. Errors of libraries are recognised by their class names, so that neither Ray nor torch is imported.
"""

import enum
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb, format_exception_only

from orchestrator import errors
from orchestrator.cluster.ray_hooks import PREEMPTED, WORKER_FAILURES, WRAPPED_ERRORS


class FailureClass(enum.StrEnum):
    """The classes of failure, by precedence: the first is the strongest evidence. Budgets are in `retries.decide`."""

    PREEMPTED = "preempted"  # the node was preempted; other errors at the same time are consequences
    PRECHECK = "precheck"
    CONTROLLER_LOST = "controller_lost"  # the driver died, or another driver took over
    GPU_OOM = "gpu_oom"
    HOST_OOM = "host_oom"
    NUMERIC = "numeric"
    DATA_POISON = "data_poison"
    USER_CODE = "user_code"
    HANG = "hang"
    CAPACITY = "capacity"  # the requested resources are not available now
    NODE_LOST = "node_lost"  # a worker process or its node died
    INFRA_TRANSIENT = "infra_transient"
    UNKNOWN = "unknown"


# Not caused by the stage: the same attempt may succeed elsewhere or later.
INFRASTRUCTURE = frozenset(
    {
        FailureClass.PREEMPTED,
        FailureClass.CONTROLLER_LOST,
        FailureClass.CAPACITY,
        FailureClass.NODE_LOST,
        FailureClass.INFRA_TRANSIENT,
    }
)


class ClassifiedError(errors.OrchestratorError):
    """A failure that was classified where it happened, for example in a worker process. Made by `classified`."""

    failure: FailureClass = FailureClass.UNKNOWN


def classified(failure: FailureClass, message: str) -> ClassifiedError:
    error = ClassifiedError(message)
    error.failure = failure  # an attribute, not an argument, so that it survives pickling
    return error


_PRECEDENCE = {failure: rank for rank, failure in enumerate(FailureClass)}

_OWN_ERRORS: dict[type[BaseException], FailureClass] = {
    errors.PoisonError: FailureClass.DATA_POISON,
    errors.NodeLostError: FailureClass.NODE_LOST,
    errors.HangError: FailureClass.HANG,
    errors.NumericError: FailureClass.NUMERIC,
    errors.PrecheckError: FailureClass.PRECHECK,
    errors.RecipeError: FailureClass.PRECHECK,
    errors.LeaseLostError: FailureClass.CONTROLLER_LOST,
    errors.StoreError: FailureClass.INFRA_TRANSIENT,  # FencedError too
    errors.RanksDisagreeError: FailureClass.INFRA_TRANSIENT,
    errors.DatabaseError: FailureClass.INFRA_TRANSIENT,
    errors.CorruptArtifactError: FailureClass.INFRA_TRANSIENT,
    errors.NewerFormatError: FailureClass.PRECHECK,
    errors.OrchestratorError: FailureClass.USER_CODE,
}

# Errors of Ray 2.60, torch 2.13, SQLAlchemy, obstore and `concurrent` by the name of their class: "module root:class".
_BY_NAME: dict[str, FailureClass] = {
    "ray:PreemptionError": FailureClass.PREEMPTED,
    "ray:OutOfMemoryError": FailureClass.HOST_OOM,
    "ray:ObjectStoreFullError": FailureClass.HOST_OOM,
    "ray:RayActorError": FailureClass.NODE_LOST,  # parent of ActorDiedError and ActorUnavailableError
    "ray:WorkerCrashedError": FailureClass.NODE_LOST,
    "ray:LocalRayletDiedError": FailureClass.NODE_LOST,
    "ray:NodeDiedError": FailureClass.NODE_LOST,
    "ray:ObjectLostError": FailureClass.NODE_LOST,
    "ray:TaskUnschedulableError": FailureClass.CAPACITY,
    "ray:ActorUnschedulableError": FailureClass.CAPACITY,
    "ray:TaskPlacementGroupRemoved": FailureClass.NODE_LOST,
    "ray:ActorPlacementGroupRemoved": FailureClass.NODE_LOST,
    "ray:WorkerGroupStartupTimeoutError": FailureClass.CAPACITY,
    "ray:NCCLHangError": FailureClass.HANG,
    "ray:OutOfDiskError": FailureClass.INFRA_TRANSIENT,
    "ray:RuntimeEnvSetupError": FailureClass.INFRA_TRANSIENT,
    "ray:GetTimeoutError": FailureClass.INFRA_TRANSIENT,
    "ray:RpcError": FailureClass.INFRA_TRANSIENT,
    "ray:RaySystemError": FailureClass.INFRA_TRANSIENT,
    "concurrent:BrokenProcessPool": FailureClass.NODE_LOST,
    "torch:OutOfMemoryError": FailureClass.GPU_OOM,
    "torch:AcceleratorError": FailureClass.NODE_LOST,  # a GPU fell off the bus, or its context is gone
    "torch:DistBackendError": FailureClass.INFRA_TRANSIENT,
    "torch:DistNetworkError": FailureClass.INFRA_TRANSIENT,
    "sqlalchemy:OperationalError": FailureClass.INFRA_TRANSIENT,
    "sqlalchemy:TimeoutError": FailureClass.INFRA_TRANSIENT,
    "obstore:GenericError": FailureClass.INFRA_TRANSIENT,
    "obstore:JoinError": FailureClass.INFRA_TRANSIENT,
}

# Python's own errors. OSError is classified by its errno; RuntimeError alone has no class.
_BUILT_IN: tuple[tuple[type[BaseException], FailureClass], ...] = (
    (FloatingPointError, FailureClass.NUMERIC),
    (MemoryError, FailureClass.HOST_OOM),
    (ConnectionError, FailureClass.INFRA_TRANSIENT),
    (TimeoutError, FailureClass.INFRA_TRANSIENT),
    (NotImplementedError, FailureClass.USER_CODE),
    (RecursionError, FailureClass.USER_CODE),
    *(
        (python_error, FailureClass.USER_CODE)
        for python_error in (
            ArithmeticError,
            AssertionError,
            AttributeError,
            EOFError,
            ImportError,
            LookupError,
            NameError,
            SyntaxError,
            TypeError,
            ValueError,
        )
    ),
)

_TRANSIENT_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.EINTR,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EADDRINUSE,
}

# Errors that libraries distinguish only by their message: (part of the message in lower case, class).
_BY_MESSAGE: tuple[tuple[str, FailureClass], ...] = (
    ("preempted", FailureClass.PREEMPTED),
    ("system error: no module named", FailureClass.USER_CODE),  # a worker cannot import the code that it was sent
    ("cuda out of memory", FailureClass.GPU_OOM),
    ("memory on the node was low", FailureClass.HOST_OOM),
    ("killed due to the node running low on memory", FailureClass.HOST_OOM),
    ("connection closed by peer", FailureClass.INFRA_TRANSIENT),
    ("connection reset by peer", FailureClass.INFRA_TRANSIENT),
    ("nccl error", FailureClass.INFRA_TRANSIENT),
    ("no space left on device", FailureClass.INFRA_TRANSIENT),
)


def classify(error: BaseException) -> FailureClass:
    """The class of `error`, taking into account the errors that it was raised from.

    In a chain, the outermost error with a known class decides, unless one below it is a preemption or ran out of
    memory: those cause the others. If there are several errors at once (the ranks of a training), the class with the
    highest precedence among the chain's and theirs decides.
    """
    found = [_classify_single(link) for link in _chain(error)]
    causes = [failure for failure in found if failure in _ROOT_CAUSES]
    groups = [classify(member) for link in _chain(error) for member in _members(link)]
    known = [failure for failure in found if failure is not FailureClass.UNKNOWN]
    known_members = [failure for failure in groups if failure is not FailureClass.UNKNOWN]
    candidates = causes or [*known[:1], *known_members] or [FailureClass.UNKNOWN]
    return min(candidates, key=_PRECEDENCE.__getitem__)


_ROOT_CAUSES = {FailureClass.PREEMPTED, FailureClass.GPU_OOM, FailureClass.HOST_OOM}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what it wraps: in Ray the attributes `WRAPPED_ERRORS`, in Python `__cause__`."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        attributes = vars(link)  # plain data, so that no property of a library's error runs
        wrapped = [attributes.get(name) for name in WRAPPED_ERRORS]
        pending.extend(inner for inner in (*wrapped, link.__cause__) if isinstance(inner, BaseException))


def _members(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return list(error.exceptions)
    by_rank = vars(error).get(WORKER_FAILURES)  # WorkerGroupError of Ray Train
    return list(by_rank.values()) if isinstance(by_rank, dict) else []


def _classify_single(error: BaseException) -> FailureClass:
    if isinstance(error, ClassifiedError):
        return error.failure
    for own in type(error).__mro__:
        if own in _OWN_ERRORS:
            return _OWN_ERRORS[own]
    foreign = _class_from_message(error) or _class_from_type_name(error)
    if foreign is not None:
        return foreign
    if type(error).__module__.partition(".")[0] == "ray":
        return FailureClass.UNKNOWN  # RayTaskError and similar ones also derive from the class of their cause
    for built_in, failure in _BUILT_IN:
        if isinstance(error, built_in):
            return failure
    return _class_from_errno(error) if isinstance(error, OSError) else FailureClass.UNKNOWN


def _class_from_type_name(error: BaseException) -> FailureClass | None:
    if isinstance(vars(error).get("cause"), BaseException):
        return None  # a RayTaskError, which also derives from the class of its cause; that is classified separately
    if vars(error).get(PREEMPTED) is True:  # RayActorError
        return FailureClass.PREEMPTED
    names = (f"{base.__module__.partition('.')[0]}:{base.__name__}" for base in type(error).__mro__)
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), None)


def _class_from_message(error: BaseException) -> FailureClass | None:
    """Only for errors whose type is not specific: Ray's and plain `RuntimeError` (torch, gloo, NCCL)."""
    if type(error) is not RuntimeError and type(error).__module__.partition(".")[0] not in {"ray", "torch"}:
        return None
    if "cause" in vars(error):  # its text quotes the cause, which is classified separately
        return None
    text = str(error).lower()
    return next((failure for words, failure in _BY_MESSAGE if words in text), None)


def _class_from_errno(error: OSError) -> FailureClass:
    if error.errno in _TRANSIENT_ERRNOS:
        return FailureClass.INFRA_TRANSIENT
    if error.errno == errno.ENOMEM:
        return FailureClass.HOST_OOM
    caused_by_user = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    # Libraries for HTTP and object stores derive from OSError without an errno.
    return FailureClass.USER_CODE if caused_by_user or error.errno is not None else FailureClass.INFRA_TRANSIENT


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """An error as plain data, so that it can be sent between processes even if the error cannot be pickled."""

    failure: FailureClass
    summary: str  # "ValueError: message", one line
    place: str  # where it was raised, "file.py:12 in function"; "" if unknown
    traceback: str  # the last frames, as text to show

    @property
    def signature(self) -> tuple[str, str]:
        """Equal for errors of the same class that were raised at the same line."""
        return self.summary.partition(":")[0], self.place


_TRACEBACK_FRAMES = 6


def report_of(error: BaseException) -> FailureReport:
    cause = _root(error)
    summary = " ".join("".join(format_exception_only(cause)).split())
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
