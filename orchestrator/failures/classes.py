"""What kind of failure an error is: the first half of the decision what to do about it.

Pure, and works on class names for the errors of libraries, so that neither Ray nor torch is imported to look at one.
"""

import enum
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb, format_exception_only

from orchestrator import errors


class FailureClass(enum.StrEnum):
    """Each class has its own budget and answer; see `retries.decide`. Declared from the strongest evidence down."""

    PREEMPTED = "preempted"  # the node was taken back; whatever broke with it is collateral
    PRECHECK = "precheck"
    CONTROLLER_LOST = "controller_lost"  # the driver died, or another one took over
    GPU_OOM = "gpu_oom"
    HOST_OOM = "host_oom"
    NUMERIC = "numeric"
    DATA_POISON = "data_poison"
    USER_CODE = "user_code"
    HANG = "hang"
    CAPACITY = "capacity"  # what was asked for cannot be had now
    NODE_LOST = "node_lost"  # a worker process or its node died
    INFRA_TRANSIENT = "infra_transient"
    UNKNOWN = "unknown"


# None of the work's own doing: the same again may succeed elsewhere or later.
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
    """A failure whose class was found where it happened, in a worker process say. Made by `classified`."""

    failure: FailureClass = FailureClass.UNKNOWN


def classified(failure: FailureClass, message: str) -> ClassifiedError:
    error = ClassifiedError(message)
    error.failure = failure  # an attribute, not an argument: so it survives pickling
    return error


_STRENGTH = {failure: rank for rank, failure in enumerate(FailureClass)}

_OURS: dict[type[BaseException], FailureClass] = {
    errors.PoisonError: FailureClass.DATA_POISON,
    errors.NodeLostError: FailureClass.NODE_LOST,
    errors.HangError: FailureClass.HANG,
    errors.NumericError: FailureClass.NUMERIC,
    errors.PrecheckError: FailureClass.PRECHECK,
    errors.RecipeError: FailureClass.PRECHECK,
    errors.LeaseLostError: FailureClass.CONTROLLER_LOST,
    errors.StoreError: FailureClass.INFRA_TRANSIENT,
    errors.DatabaseError: FailureClass.INFRA_TRANSIENT,
    errors.CorruptArtifactError: FailureClass.INFRA_TRANSIENT,
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

# Plain Python. OSError is decided by its number; RuntimeError says nothing by itself.
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

_TRANSIENT_NUMBERS = {
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

# What libraries only say in words: (piece of the message in lower case, class).
_BY_WORDS: tuple[tuple[str, FailureClass], ...] = (
    ("preempted", FailureClass.PREEMPTED),
    ("cuda out of memory", FailureClass.GPU_OOM),
    ("memory on the node was low", FailureClass.HOST_OOM),
    ("killed due to the node running low on memory", FailureClass.HOST_OOM),
    ("connection closed by peer", FailureClass.INFRA_TRANSIENT),
    ("connection reset by peer", FailureClass.INFRA_TRANSIENT),
    ("nccl error", FailureClass.INFRA_TRANSIENT),
    ("no space left on device", FailureClass.INFRA_TRANSIENT),
)


def classify(error: BaseException) -> FailureClass:
    """The class of `error` together with everything that it was raised from.

    Of one chain, the outermost error that says anything decides, unless one below it is a preemption or ran out of
    memory: those cause the others. Where there are several errors at once (the ranks of a training), the strongest
    of it and them decides.
    """
    found = [_classify_one(link) for link in _chain(error)]
    causes = [failure for failure in found if failure in _ROOT_CAUSES]
    groups = [classify(member) for link in _chain(error) for member in _members(link)]
    known = [failure for failure in found if failure is not FailureClass.UNKNOWN]
    clear = [failure for failure in groups if failure is not FailureClass.UNKNOWN]
    candidates = causes or [*known[:1], *clear] or [FailureClass.UNKNOWN]
    return min(candidates, key=_STRENGTH.__getitem__)


_WRAPPED = ("cause", "controller_failure", "health_check_failure", "_base_exc")  # attributes of Ray's errors
_ROOT_CAUSES = {FailureClass.PREEMPTED, FailureClass.GPU_OOM, FailureClass.HOST_OOM}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what it wraps: in Ray the attributes `_WRAPPED`, in Python `__cause__`."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        attributes = vars(link)  # plain data, so that no property of a foreign error runs
        wrapped = [attributes.get(name) for name in _WRAPPED]
        pending.extend(inner for inner in (*wrapped, link.__cause__) if isinstance(inner, BaseException))


def _members(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return list(error.exceptions)
    by_rank = vars(error).get("worker_failures")  # WorkerGroupError of Ray Train
    return list(by_rank.values()) if isinstance(by_rank, dict) else []


def _classify_one(error: BaseException) -> FailureClass:
    if isinstance(error, ClassifiedError):
        return error.failure
    for ours in type(error).__mro__:
        if ours in _OURS:
            return _OURS[ours]
    foreign = _from_words(error) or _from_name(error)
    if foreign is not None:
        return foreign
    if type(error).__module__.partition(".")[0] == "ray":
        return FailureClass.UNKNOWN  # RayTaskError and the like borrow the class of their cause
    for built_in, failure in _BUILT_IN:
        if isinstance(error, built_in):
            return failure
    return _from_number(error) if isinstance(error, OSError) else FailureClass.UNKNOWN


def _from_name(error: BaseException) -> FailureClass | None:
    if vars(error).get("_preempted") is True:  # RayActorError
        return FailureClass.PREEMPTED
    names = (f"{base.__module__.partition('.')[0]}:{base.__name__}" for base in type(error).__mro__)
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), None)


def _from_words(error: BaseException) -> FailureClass | None:
    """Only for errors whose class says nothing: Ray's and plain `RuntimeError` (torch, gloo, NCCL)."""
    if type(error) is not RuntimeError and type(error).__module__.partition(".")[0] not in {"ray", "torch"}:
        return None
    if "cause" in vars(error):  # its text quotes the cause, which is looked at by itself
        return None
    text = str(error).lower()
    return next((failure for words, failure in _BY_WORDS if words in text), None)


def _from_number(error: OSError) -> FailureClass:
    if error.errno in _TRANSIENT_NUMBERS:
        return FailureClass.INFRA_TRANSIENT
    if error.errno == errno.ENOMEM:
        return FailureClass.HOST_OOM
    by_us = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    # Libraries for HTTP and object stores derive from OSError without a number.
    return FailureClass.USER_CODE if by_us or error.errno is not None else FailureClass.INFRA_TRANSIENT


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """An error as plain data: it crosses process borders whatever the error's own class can do."""

    failure: FailureClass
    summary: str  # "ValueError: message", one line
    place: str  # "file.py:12 in function", where it was raised; "" if unknown
    traceback: str  # the last frames, for people

    @property
    def signature(self) -> tuple[str, str]:
        """Equal for two errors of one class that were raised at the same place."""
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
    """The user's own error inside Ray's wrapper; anything else as it is."""
    cause = vars(error).get("cause")
    return cause if isinstance(cause, BaseException) else error
