"""Errors are mapped to their failure classes, whatever they are wrapped in."""

import errno
import pickle
import zlib

import pytest

from orchestrator import errors
from orchestrator.failures.classes import classified, classify, is_death_of_node, report_of
from orchestrator.failures.failure_class import FailureClass


def error_of_library(module: str, name: str, base: type[Exception] = Exception) -> Exception:
    """An error as a library defines it: only its module and name are known."""
    return type(name, (base,), {"__module__": module})("a message of the library")


def raised_from(outer: Exception, inner: BaseException) -> Exception:
    outer.__cause__ = inner
    return outer


class DamagedTableError(ValueError):
    """As other rooms declare that data are at fault."""

    failure_class = "data"


def declaring(failure: object) -> Exception:
    return type("OddError", (ValueError,), {"failure_class": failure})("x")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DamagedTableError("x"), FailureClass.DATA),
        (raised_from(DamagedTableError("x"), EOFError("ends early")), FailureClass.DATA),
        (raised_from(DamagedTableError("x"), FileNotFoundError(errno.ENOENT, "x")), FailureClass.DATA),
        (raised_from(DamagedTableError("x"), OSError(errno.EIO, "x")), FailureClass.INFRA_TRANSIENT),
        (raised_from(DamagedTableError("x"), OSError(errno.ESTALE, "x")), FailureClass.INFRA_TRANSIENT),
        (raised_from(DamagedTableError("x"), MemoryError()), FailureClass.HOST_OOM),
        (declaring("nonsense"), FailureClass.USER_CODE),
        (declaring(7), FailureClass.USER_CODE),
        (errors.PoisonError("x"), FailureClass.DATA_POISON),
        (errors.NodeLostError("x"), FailureClass.NODE_LOST),
        (errors.HangError("x"), FailureClass.HANG),
        (errors.PrecheckError("x"), FailureClass.PRECHECK),
        (errors.LeaseLostError("x"), FailureClass.CONTROLLER_LOST),
        (errors.StoreError("x"), FailureClass.INFRA_TRANSIENT),
        (errors.OrchestratorError("x"), FailureClass.USER_CODE),
        (classified(FailureClass.GPU_OOM, "x"), FailureClass.GPU_OOM),
        (FloatingPointError("loss is nan"), FailureClass.NUMERIC),
        (ZeroDivisionError("x"), FailureClass.USER_CODE),
        (KeyError("x"), FailureClass.USER_CODE),
        (UnicodeDecodeError("utf8", b"", 0, 1, "x"), FailureClass.USER_CODE),
        (MemoryError(), FailureClass.HOST_OOM),
        (ConnectionResetError("x"), FailureClass.INFRA_TRANSIENT),
        (TimeoutError("x"), FailureClass.INFRA_TRANSIENT),
        (OSError(errno.ENOSPC, "full"), FailureClass.INFRA_TRANSIENT),
        (OSError(errno.ENOMEM, "no memory"), FailureClass.HOST_OOM),
        (error_of_library("requests.exceptions", "RequestException", OSError), FailureClass.INFRA_TRANSIENT),
        (OSError("without a number, from any library"), FailureClass.UNKNOWN),
        (FileNotFoundError(errno.ENOENT, "x"), FailureClass.USER_CODE),
        (FileNotFoundError("without a number"), FailureClass.USER_CODE),
        (PermissionError("without a number"), FailureClass.USER_CODE),
        (IsADirectoryError("without a number"), FailureClass.USER_CODE),
        (NotADirectoryError("without a number"), FailureClass.USER_CODE),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            FailureClass.INFRA_TRANSIENT,
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_1"), FailureClass.HOST_OOM),
        (OSError(0, "odd"), FailureClass.UNKNOWN),
        (raised_from(classified(FailureClass.UNKNOWN, "x"), ConnectionResetError("x")), FailureClass.INFRA_TRANSIENT),
        (PermissionError(errno.EACCES, "x"), FailureClass.USER_CODE),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureClass.UNKNOWN),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.GPU_OOM),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), FailureClass.INFRA_TRANSIENT),
        (error_of_library("ray.exceptions", "ActorDiedError"), FailureClass.UNKNOWN),  # only its parent is listed
        (error_of_library("ray.exceptions", "RayActorError"), FailureClass.NODE_LOST),
        (error_of_library("ray.exceptions", "OutOfMemoryError"), FailureClass.HOST_OOM),
        (error_of_library("torch", "OutOfMemoryError", RuntimeError), FailureClass.GPU_OOM),
        (error_of_library("ray.exceptions", "ActorUnschedulableError"), FailureClass.CAPACITY),
        (error_of_library("ray.train.v2.api.exceptions", "PreemptionError"), FailureClass.PREEMPTED),
        (error_of_library("sqlalchemy.exc", "OperationalError"), FailureClass.INFRA_TRANSIENT),
        (error_of_library("elsewhere", "SomeError"), FailureClass.UNKNOWN),
    ],
)
def test_an_error_has_a_class(error: Exception, expected: FailureClass) -> None:
    assert classify(error) is expected


def test_the_errors_of_ray_have_their_classes() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")
    assert classify(ray_errors.ActorDiedError()) is FailureClass.NODE_LOST
    assert classify(ray_errors.WorkerCrashedError()) is FailureClass.NODE_LOST
    assert classify(ray_errors.OutOfMemoryError("killed")) is FailureClass.HOST_OOM
    assert classify(ray_errors.GetTimeoutError("slow")) is FailureClass.INFRA_TRANSIENT


def test_a_task_error_of_ray_is_unwrapped_to_its_cause() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")
    damaged = ray_errors.RayTaskError("work", "Traceback: ...", DamagedTableError("x"))
    assert classify(damaged) is classify(damaged.as_instanceof_cause()) is FailureClass.DATA
    error = ray_errors.RayTaskError("work", "Traceback: ... preempted ...", KeyError("colour"))
    for wrapped in (error, error.as_instanceof_cause()):
        assert classify(wrapped) is FailureClass.USER_CODE
        assert report_of(wrapped).summary == "KeyError: 'colour'"


def test_a_worker_that_cannot_import_its_code_is_a_mistake_of_the_user() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")
    cause = ray_errors.RaySystemError("No module named 'mine'", "Traceback ...")
    wrapped = ray_errors.RayTaskError("start", "Traceback ...", cause).as_instanceof_cause()
    assert classify(wrapped) is FailureClass.USER_CODE
    assert classify(ray_errors.RaySystemError("the raylet is gone", "")) is FailureClass.INFRA_TRANSIENT


def test_the_innermost_error_that_is_specific_decides() -> None:
    unreadable = OSError(errno.EIO, "Input/output error")
    assert classify(raised_from(ValueError("cannot read row 7"), unreadable)) is FailureClass.INFRA_TRANSIENT
    assert classify(raised_from(ConnectionError("no copy"), KeyError("row 7"))) is FailureClass.INFRA_TRANSIENT
    broken = error_of_library("zlib", "error")
    assert classify(raised_from(ConnectionError("x"), broken)) is FailureClass.DATA_POISON
    assert classify(RuntimeError("fetch failed", ConnectionResetError("x"))) is FailureClass.INFRA_TRANSIENT


def test_an_error_that_was_being_handled_counts_unless_it_is_suppressed() -> None:
    def fail(*, suppress: bool) -> None:
        try:
            raise OSError(errno.ESTALE, "Stale file handle")
        except OSError:
            if suppress:
                raise ValueError("bad row") from None
            raise ValueError("bad row")  # noqa: B904 - the case

    for suppress, expected in ((False, FailureClass.INFRA_TRANSIENT), (True, FailureClass.USER_CODE)):
        with pytest.raises(ValueError, match="bad row") as error:
            fail(suppress=suppress)
        assert classify(error.value) is expected


@pytest.mark.parametrize(
    ("last_line", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", FailureClass.GPU_OOM),
        ("ValueError: cannot read 'cuda out of memory.txt'", FailureClass.USER_CODE),
        ("OSError: [Errno 5] Input/output error", FailureClass.INFRA_TRANSIENT),
        ("orchestrator.errors.NumericError: loss is nan at step 4", FailureClass.NUMERIC),
        ("ModuleNotFoundError: No module named 'house_code'", FailureClass.USER_CODE),
        ("house.StrangeError: it went wrong", FailureClass.UNKNOWN),
        ("safetensors.SafetensorError: it went wrong", FailureClass.DATA_POISON),
        ("requests.exceptions.OddError: it went wrong", FailureClass.INFRA_TRANSIENT),
        ("KeyError: 'colour'", FailureClass.USER_CODE),
    ],
)
def test_of_a_traceback_as_text_the_errors_that_it_names_decide(last_line: str, expected: FailureClass) -> None:
    frame = '  File "work.py", line 4, in f\n    log("preempted: no space left on device")\n'
    assert classify(RuntimeError(f"Traceback (most recent call last):\n{frame}{last_line}\n")) is expected


def test_the_name_of_a_ray_task_marks_a_traceback_too() -> None:
    assert classify(RuntimeError("ray::work() (pid=7)\nValueError: found 'Socket Timeout'")) is FailureClass.USER_CODE
    assert classify(RuntimeError("ValueError: found 'Socket Timeout'")) is FailureClass.INFRA_TRANSIENT  # a message


def test_each_error_of_a_traceback_as_text_is_judged_by_its_own_message() -> None:
    text = (
        "Traceback (most recent call last):\nRuntimeError: it went wrong\n\nDuring handling of the above exception, "
        "another exception occurred:\n\nTraceback (most recent call last):\nValueError: found 'Socket Timeout'\n"
    )
    assert classify(RuntimeError(text)) is FailureClass.USER_CODE
    assert classify(RuntimeError(text.replace("it went wrong", "Socket\nTimeout"))) is FailureClass.USER_CODE
    last = "Traceback (most recent call last):\nRuntimeError: reset:\nConnection closed by peer"
    assert classify(RuntimeError(last)) is FailureClass.INFRA_TRANSIENT  # a message of two lines, to the end


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unable to lock file, errno = 37", FailureClass.INFRA_TRANSIENT),
        ("cannot open it: [Errno 2]", FailureClass.USER_CODE),
        ("odd: errno = 4711", FailureClass.UNKNOWN),  # of no system
    ],
)
def test_a_number_that_a_message_quotes_counts_if_the_system_knows_it(message: str, expected: FailureClass) -> None:
    assert classify(OSError(message)) is expected


def test_what_ray_says_of_a_taken_node_wins_over_the_other_ranks() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")
    taken = ray_errors.RayActorError(preempted=True)
    ranks = ExceptionGroup("ranks", [ValueError("half a batch"), taken])
    assert classify(raised_from(errors.NodeLostError("worker 1 died"), ranks)) is FailureClass.PREEMPTED


def test_the_outermost_deliberate_error_decides() -> None:
    assert classify(raised_from(RuntimeError("stage failed"), ConnectionError("x"))) is FailureClass.INFRA_TRANSIENT
    assert classify(raised_from(errors.PoisonError("row 7"), ConnectionError("x"))) is FailureClass.DATA_POISON
    assert classify(raised_from(errors.StoreError("put"), ValueError("x"))) is FailureClass.INFRA_TRANSIENT


def test_preemption_and_lack_of_memory_win_over_the_errors_that_they_cause() -> None:
    preempted = error_of_library("ray.train", "PreemptionError")
    assert classify(raised_from(ConnectionError("peer gone"), preempted)) is FailureClass.PREEMPTED
    assert classify(raised_from(ValueError("half a batch"), MemoryError())) is FailureClass.HOST_OOM


def test_of_several_ranks_the_strongest_evidence_decides() -> None:
    class WorkerGroupError(Exception):
        def __init__(self, failures: dict[int, Exception]) -> None:
            super().__init__("training failed")
            self.worker_failures = failures

    collateral = RuntimeError("Connection closed by peer")
    assert classify(WorkerGroupError({0: collateral, 1: ValueError("bad shape")})) is FailureClass.USER_CODE
    assert classify(WorkerGroupError({0: collateral, 1: errors.NodeLostError("died")})) is FailureClass.NODE_LOST
    group = ExceptionGroup("ranks", [collateral, MemoryError()])
    assert classify(raised_from(RuntimeError("all"), group)) is FailureClass.HOST_OOM


def test_errors_of_several_ranks_are_no_part_of_the_chain_that_one_of_them_began() -> None:
    reset = ConnectionResetError("x")
    group = raised_from(ExceptionGroup("ranks", [reset]), reset)
    dead = error_of_library("ray.exceptions", "RayActorError")
    assert classify(raised_from(dead, group)) is FailureClass.NODE_LOST


def test_a_dead_process_is_that_of_its_node_only_if_ray_says_so() -> None:
    ray_errors = pytest.importorskip("ray.exceptions")

    def died(text: str) -> bool:
        error = ray_errors.RayActorError(None)
        error.error_msg = error.base_error_msg = text
        return is_death_of_node(error)

    assert died("The actor died because its node has died.")
    assert not died("The actor died because of an error raised in its creation task.")
    assert is_death_of_node(ray_errors.RayActorError(preempted=True))
    assert is_death_of_node(raised_from(RuntimeError("x"), ray_errors.NodeDiedError("x")))
    assert not is_death_of_node(RuntimeError("its node has died"))


def test_a_rank_of_unknown_class_leaves_the_decision_to_the_others() -> None:
    class HealthCheckError(Exception):
        """As Ray Train reports a worker that was killed: the reason is an attribute, not the cause."""

        def __init__(self, failure: Exception) -> None:
            super().__init__("a health check failed")
            self.health_check_failure = failure

    class WorkerGroupError(Exception):
        def __init__(self, failures: dict[int, Exception]) -> None:
            super().__init__("training failed")
            self.worker_failures = failures

    silent = WorkerGroupError({0: RuntimeError("it went wrong")})
    assert classify(raised_from(errors.NodeLostError("worker 0 died"), silent)) is FailureClass.NODE_LOST
    killed = WorkerGroupError({0: HealthCheckError(errors.NodeLostError("the actor died"))})
    assert classify(killed) is FailureClass.NODE_LOST
    assert classify(silent) is FailureClass.UNKNOWN


def test_an_error_that_is_met_twice_does_not_hide_what_is_behind_it() -> None:
    inner = raised_from(RuntimeError("fetch failed"), ConnectionResetError("x"))
    assert classify(raised_from(RuntimeError("row 7", inner), inner)) is FailureClass.INFRA_TRANSIENT


def test_an_error_that_cannot_print_itself_says_nothing() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise KeyError("text")

    assert classify(SilentError()) is FailureClass.UNKNOWN
    assert classify(raised_from(SilentError(), MemoryError())) is FailureClass.HOST_OOM


def test_failures_of_ranks_count_only_where_they_are_listed_by_rank() -> None:
    odd = RuntimeError("Socket Timeout")
    vars(odd)["worker_failures"] = [MemoryError()]  # as an error of another library has it
    assert classify(odd) is FailureClass.INFRA_TRANSIENT


def test_a_traceback_that_names_no_error_is_a_message_like_others() -> None:
    assert classify(RuntimeError("ray::work() ended: Socket Timeout")) is FailureClass.INFRA_TRANSIENT


def test_a_cyclic_chain_of_errors_is_classified() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is FailureClass.UNKNOWN


def test_a_classified_error_keeps_its_class_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(classified(FailureClass.HANG, "stuck")))  # noqa: S301 - our own bytes
    assert (classify(error), str(error)) == (FailureClass.HANG, "stuck")


def test_a_report_names_where_the_error_was_raised() -> None:
    def inner(value: int) -> None:
        raise ValueError(f"found {value}\nexpected another")

    reports = []
    for value in (1, 2):
        try:
            inner(value)
        except ValueError as error:
            reports.append(report_of(error))
    assert reports[0].summary == "ValueError: found 1 expected another"
    assert reports[0].place.startswith("test_classes.py:")
    assert reports[0].place.endswith(" in inner")
    assert reports[0].signature == reports[1].signature
    assert "raise ValueError" in reports[0].traceback


def test_a_report_of_an_error_that_was_never_raised_has_no_place_and_a_long_message_is_cut() -> None:
    report = report_of(ValueError("x" * 5000))
    assert (report.place, len(report.summary), report.failure) == ("", 2000, FailureClass.USER_CODE)
    assert report.traceback == report.summary
    assert report.signature == ("ValueError", "")
    assert report_of(errors.PoisonError("image1: cannot be decoded")).signature == ("data_poison", "")


def test_a_report_holds_the_last_six_frames_and_the_message() -> None:
    def deep(depth: int) -> None:
        if not depth:
            raise ValueError("at the bottom")
        deep(depth - 1)

    with pytest.raises(ValueError, match="at the bottom") as raised:
        deep(20)
    lines = report_of(raised.value).traceback.splitlines()
    assert len(lines) == 7
    assert all(" in deep: " in line for line in lines[:-1])
    assert lines[-1] == "ValueError: at the bottom"


def test_a_report_of_an_error_of_ours_is_its_message_and_equal_by_class_and_line() -> None:
    def inner(value: int) -> None:
        raise errors.PoisonError(f"image{value}: cannot be decoded")

    reports = []
    for value in (1, 2):
        try:
            inner(value)
        except errors.PoisonError as error:
            reports.append(report_of(error))
    assert [report.summary for report in reports] == ["image1: cannot be decoded", "image2: cannot be decoded"]
    assert reports[0].signature == reports[1].signature
    assert report_of(classified(FailureClass.PREEMPTED, "its node is taken away")).summary == "its node is taken away"
    assert report_of(errors.PoisonError()).summary == "orchestrator.errors.PoisonError", "better than nothing"


def test_broken_data_in_the_answer_of_a_server_was_damaged_on_its_way() -> None:
    broken = zlib.error("Error -3 while decompressing data: incorrect header check")
    decoding = error_of_library("urllib3", "DecodeError")
    decoding.args = ("Received response with content-encoding: gzip, but failed to decode it.", broken)
    assert classify(broken) is FailureClass.DATA_POISON
    assert classify(decoding) is FailureClass.INFRA_TRANSIENT
    assert classify(raised_from(error_of_library("requests", "ContentDecodingError"), broken)) is (
        FailureClass.INFRA_TRANSIENT
    )
