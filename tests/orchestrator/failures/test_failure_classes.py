"""Every class of failure from its signal to its end: class, decision, budget, message, exit code.

The signals are real errors that pass through the real executor. What needs real processes on a real Ray is tested
elsewhere: `test_map_shards.py` (a worker that is killed, hangs or dies of one item), `chaos/test_nodes.py` (a lost
node), `chaos/test_failpoints_on_ray.py` (no memory left on the host), `chaos/test_jobs.py` and `chaos/test_killed.py`
(drivers and training workers), `stages/training/test_loop.py` (a non-finite loss: roll back and skip the data).
"""

import itertools
import math
import os
import random
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import ray.exceptions
import sqlalchemy
import torch
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from orchestrator.errors import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    HangError,
    LeaseLostError,
    NodeLostError,
    NumericError,
    PrecheckError,
    StageFailedError,
    StoreError,
)
from orchestrator.failures.classes import classified, classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.failures.retries import WHAT_TO_DO, PastFailure, Retry, decide
from orchestrator.shard_map.quarantine import QuarantineCount
from orchestrator.shards import Quarantined
from orchestrator.stage import RetryPolicy, StageContext
from tests.orchestrator.execution.test_executor import CALLS, TROUBLES, Site, fail, number, open_workspace, stage

Signal = Callable[[], None]  # raises
Budget = Literal[
    "unlimited", "attempts", "twice", "once"
]  # how often it may happen without progress before the stage fails
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    failure: FailureClass
    signals: tuple[Signal, ...]
    budget: Budget
    says: str  # in the message or in the log: why it is retried, or why not
    halves: bool = False  # the work held in memory at once
    exit_code: int = EXIT_FAILED


def raises(error: BaseException) -> Signal:
    def signal_() -> None:
        raise error

    return signal_


def allocate_more_than_there_is() -> None:
    bytearray(1 << 62)


def divide_by_zero() -> None:
    with np.errstate(all="raise"):
        np.log(np.zeros(1))


def too_many_bad_items() -> None:
    count = QuarantineCount(num_items=10, max_share=0.1, where="curate: images")
    count.add([Quarantined(item=f"{number}.jpg", reason="cannot be decoded") for number in range(2)])
    count.check()


def worker_process_is_killed() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


def nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        socket.create_connection(free.getsockname(), timeout=5)


def disk_is_full() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")


def database_is_locked() -> None:
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: sqlite3.connect("/nowhere/at/all.db"))
    engine.connect()


def read_a_file_that_is_not_there() -> None:
    Path("/nowhere/words.txt").read_text()


def parse_a_word_as_a_number() -> None:
    int("seven")


def read_a_field_that_is_not_there() -> None:
    dict[str, int]()["colour"]


def collateral_of_preemption() -> None:
    """One rank's node is preempted; the others lose their peer, and one computes a non-finite value because of it."""
    ranks: dict[int, Exception] = {
        0: RuntimeError("[gloo] Connection closed by peer"),
        1: NumericError("loss nan"),
        2: ray.exceptions.RayActorError(preempted=True),
    }
    raise NodeLostError("training worker 2 died") from WorkerGroupError("several ranks failed", ranks)


def stopped_while_preempted() -> None:
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a" * 56: [2]})
    raise HangError("no step ended for 1800 s") from PreemptionError(info)


class DamagedTableError(ValueError):
    """As other rooms declare it."""

    failure_class = "data"


def read_a_damaged_table() -> None:
    try:
        raise EOFError("the file ends early")
    except EOFError as error:
        raise DamagedTableError("ledger/s-0.parquet: not a table") from error


TABLE = (
    Row(
        failure=FailureClass.PREEMPTED,
        signals=(
            raises(ray.exceptions.RayActorError(preempted=True)),
            collateral_of_preemption,
            stopped_while_preempted,
        ),
        budget="unlimited",
        says="not counted: the node was preempted",
    ),
    Row(
        failure=FailureClass.PRECHECK,
        signals=(raises(PrecheckError("stages.one.config.value: found 13, expected another number")),),
        budget="once",
        says="trying again would not help",
        exit_code=2,  # as nothing was made before
    ),
    Row(
        failure=FailureClass.CONTROLLER_LOST,  # as reported by a job; the loss of this driver itself is tested below
        signals=(raises(classified(FailureClass.CONTROLLER_LOST, "the lease of the stage driver was lost")),),
        budget="unlimited",
        says="not counted: its driver was lost",
    ),
    Row(
        failure=FailureClass.GPU_OOM,
        signals=(
            raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
            raises(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        ),
        budget="attempts",
        says="3 of 3 tries used without progress in between",
        halves=True,
    ),
    Row(
        failure=FailureClass.HOST_OOM,
        signals=(allocate_more_than_there_is, raises(ray.exceptions.OutOfMemoryError("memory on the node was low"))),
        budget="attempts",
        says="3 of 3 tries used without progress in between",
        halves=True,
    ),
    Row(
        failure=FailureClass.NUMERIC,
        signals=(raises(NumericError("step 7, pass fit: loss nan at learning rates 0.001")), divide_by_zero),
        budget="once",
        says="trying again would not help",
    ),
    Row(
        failure=FailureClass.DATA_POISON,
        signals=(too_many_bad_items,),
        budget="once",
        says="trying again would not help",
    ),
    Row(
        failure=FailureClass.DATA,
        signals=(read_a_damaged_table,),
        budget="once",
        says="trying again would not help",
    ),
    Row(
        failure=FailureClass.USER_CODE,
        signals=(
            parse_a_word_as_a_number,
            read_a_file_that_is_not_there,
            read_a_field_that_is_not_there,
        ),
        budget="once",
        says="trying again would not help",
    ),
    Row(
        failure=FailureClass.HANG,
        signals=(raises(HangError("one: no training step ended for 1800 s; the workers were killed")),),
        budget="attempts",
        says="3 of 3 tries used without progress in between",
    ),
    Row(
        failure=FailureClass.CAPACITY,
        signals=(raises(ray.exceptions.ActorUnschedulableError("no node has 8 GPUs")),),
        budget="unlimited",
        says="not counted: the resources are not available now",
    ),
    Row(
        failure=FailureClass.NODE_LOST,
        signals=(
            worker_process_is_killed,
            raises(ray.exceptions.ActorDiedError()),
            raises(ray.exceptions.WorkerCrashedError()),
        ),
        budget="attempts",
        says="3 of 3 tries used without progress in between",
        exit_code=EXIT_INFRASTRUCTURE,
    ),
    Row(
        failure=FailureClass.INFRA_TRANSIENT,
        signals=(nobody_listens, disk_is_full, database_is_locked, raises(StoreError("s3://bucket: no answer"))),
        budget="attempts",
        says="3 of 3 tries used without progress in between",
        exit_code=EXIT_INFRASTRUCTURE,
    ),
    Row(
        failure=FailureClass.UNKNOWN,
        signals=(raises(RuntimeError("it went wrong")),),
        budget="twice",
        says="it happened again",
    ),
)
TIMES = {"once": 1, "twice": 2, "attempts": ATTEMPTS, "unlimited": 2 * ATTEMPTS}
by_class = pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.failure))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    TROUBLES.clear()
    CALLS.clear()
    with open_workspace(tmp_path) as workspace:
        yield Site(workspace=workspace)


def test_the_table_covers_every_class_once() -> None:
    assert [row.failure for row in TABLE] == list(FailureClass)
    assert list(WHAT_TO_DO) == list(FailureClass)


@by_class
def test_each_signal_has_its_class(row: Row) -> None:
    for signal_ in row.signals:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any error; its class is asserted
            signal_()
        assert classify(caught.value) is row.failure


@by_class
def test_a_failure_is_retried_within_its_budget_and_ends_with_its_message(
    row: Row, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    times, halvings, signals = TIMES[row.budget], list[int](), itertools.cycle(row.signals)

    def trouble(context: StageContext) -> None:
        halvings.append(context.memory_halvings)
        if row.budget != "unlimited" or len(halvings) <= times:
            next(signals)()

    TROUBLES["one"] = trouble
    work = stage("one", 1, attempts=ATTEMPTS, wait_s=0.001)
    if row.budget == "unlimited":
        assert number(site.run(work)["one"]) == 1
        retries = [record.getMessage() for record in caplog.records if "retrying in" in record.getMessage()]
        assert len(retries) == times
        assert all(row.says in line for line in retries)
        return
    with pytest.raises(StageFailedError) as failure:
        site.run(work)
    message, run_id = str(failure.value), site.run_ids[-1]
    assert len(CALLS) == times
    assert halvings == (list(range(times)) if row.halves else [0] * times)
    assert failure.value.exit_code == row.exit_code
    last = f"{run_id}-one-1-{times}"
    ended = [f"    ({row.failure}: {row.says}; attempt {last})", f"    What to do: {WHAT_TO_DO[row.failure]}"]
    safe = "  What was committed is safe, shards and checkpoints too; nothing is retried automatically."
    lines = message.splitlines()
    assert lines[:2] == [f"run {run_id}: 1 stage failed", "  one:"]
    assert lines[-4:] == [*ended, safe, f"  Continue with `illume resume {run_id}` once the cause is gone"]
    what_failed = lines[2:-4]
    is_bug = row.failure in (FailureClass.USER_CODE, FailureClass.UNKNOWN, FailureClass.NUMERIC)
    assert what_failed
    assert is_bug or not any(".py:" in line for line in what_failed)  # only bugs in the code show where in the code
    assert "Traceback" not in message


def past(failure: FailureClass, count: int, *, progressed: bool) -> list[PastFailure]:
    return [PastFailure(failure=failure, progressed=progressed)] * count


@by_class
def test_progress_restores_the_budget_of_classes_that_a_retry_can_repair(row: Row) -> None:
    policy = RetryPolicy(attempts=ATTEMPTS, wait_s=0.001)
    answer = decide(past(row.failure, 40, progressed=True), policy, rng=random.Random(0))
    assert isinstance(answer, Retry) == (row.budget != "once")
    if isinstance(answer, Retry):
        assert answer.memory_halvings == (40 if row.halves else 0)  # the memory has not become larger
    still = decide(past(row.failure, 40, progressed=False), policy, rng=random.Random(0))
    assert isinstance(still, Retry) == (row.budget == "unlimited")


@by_class
def test_waits_are_bounded(row: Row) -> None:
    policy = RetryPolicy(attempts=1000, wait_s=1.0)
    for count in (1, 2, 10, 900):
        answer = decide(past(row.failure, count, progressed=False), policy, rng=random.Random(count))
        if isinstance(answer, Retry):
            full = min(math.ldexp(1.0, min(count - 1, 30)), 300.0)
            assert full / 2 <= answer.wait_s <= full


def test_a_driver_that_lost_its_lease_ends_without_failing_the_stage(site: Site) -> None:
    TROUBLES["one"] = fail(LeaseLostError("another driver carries the run out"))
    with pytest.raises(LeaseLostError) as failure:
        site.run(stage("one", 1))
    assert failure.value.exit_code == EXIT_INFRASTRUCTURE
    assert site.ends() == []
    assert number(site.resume()["one"]) == 1
    lost = [event.fields for event in site.events("attempt_state") if event.fields["to"] == "LOST"]
    assert [fields["failure_class"] for fields in lost] == ["controller_lost"]


def test_a_store_that_does_not_answer_whether_there_was_progress_costs_a_try_and_not_the_run(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> int:
        raise StoreError("the store does not answer")

    def store_goes_away(_context: StageContext) -> None:
        if len(CALLS) == 1:
            monkeypatch.setattr("orchestrator.execution.local_attempt.newest_checkpoint_step", unreachable)
            raise StoreError("the store does not answer")

    TROUBLES["one"] = store_goes_away
    with pytest.raises(StageFailedError, match="infra_transient: 3 of 3 tries used"):
        site.run(stage("one", 1, wait_s=0.001))
    assert len(site.ends()) == ATTEMPTS
