"""Carries out one stage of a run: waits for whoever makes the same artifact, makes attempts, decides after failures.

Runs in a thread of its own. Trouble with the index database or a lost lease ends the driver, not the stage: what was
committed is in the store, and the next driver finds it.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.stage_records import withdraw
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import CancelledError, DatabaseError, LeaseLostError, OrchestratorError, StoreError
from orchestrator.execution.gates import broken_gates, gate_results, gates_to_json
from orchestrator.execution.job_attempt import JobWork
from orchestrator.execution.local_attempt import Order, StageWork
from orchestrator.execution.run_logs import RunLogs
from orchestrator.failures.classes import FailureClass, FailureReport, classify, report_of
from orchestrator.failures.retries import PastFailure, Retry, decide
from orchestrator.history.attempts import Attempt, AttemptIntent, InputSummary
from orchestrator.history.events import AttemptState, EventKind
from orchestrator.history.lease_owners import describe
from orchestrator.history.leases import LeaseKeeper, Leases
from orchestrator.history.run_store import RunStore, StateConflictError
from orchestrator.identity import config_to_json
from orchestrator.planning.plan import PlannedStage

log = logging.getLogger(__name__)

MAX_SHOWN_CHARACTERS = 200  # of the cause of a failure that is tried again; the log has all of it
WAIT_S = 1.0  # between looks at an artifact that another run is making
_MISTAKES = {FailureClass.USER_CODE, FailureClass.UNKNOWN, FailureClass.NUMERIC}  # where in the code is worth telling
DRIVER_ENDS = (DatabaseError, LeaseLostError, StateConflictError)


@dataclass(frozen=True, kw_only=True)
class RunTools:
    """What all stages of one run share."""

    run_id: str
    plan_digest: str
    epoch: int
    artifacts: ArtifactStore
    ledger: ShardLedger
    history: RunStore
    leases: Leases
    keeper: LeaseKeeper
    cluster: Cluster
    logs: RunLogs
    scratch: Path
    stop: threading.Event  # come to a clean stop
    going_on: dict[str, Attempt]  # by stage: attempts that outlived the driver before this one, as jobs of a cluster


class StageGaveUpError(OrchestratorError):
    """A stage failed for good. Made by `_gave_up`."""

    failure = FailureClass.UNKNOWN  # of its last attempt


def _gave_up(failure: FailureClass, message: str) -> StageGaveUpError:
    error = StageGaveUpError(message)
    error.failure = failure
    return error


@dataclass(frozen=True, kw_only=True)
class _Failed:
    past: PastFailure
    report: FailureReport


class StageRun:
    """One stage of one run; `carry_out` is called once."""

    def __init__(self, planned: PlannedStage, inputs: Mapping[str, Sequence[PlannedStage]], tools: RunTools) -> None:
        self._planned, self._inputs, self._tools = planned, inputs, tools
        self._kind = planned.spec.kind
        self._attempt_id = ""  # of the newest attempt
        self._rng = random.Random(f"{tools.run_id}-{planned.id}-{tools.epoch}")

    def carry_out(self) -> Artifact:
        """The stage's committed artifact: made here, or by another run meanwhile.

        Raises:
            StageGaveUpError: it failed for good; the message says after how many tries.
            CancelledError: a stop was requested; committed shards and checkpoints are kept.
            DatabaseError, LeaseLostError, StateConflictError: this driver cannot go on.
        """
        with self._reservation():
            if self._planned.redo:
                self._withdraw()
            if self._planned.id in self._tools.going_on:
                return self._attempts()
            found = self._adopted()
            return found if found is not None else self._attempts()

    # One maker at a time.

    @contextmanager
    def _reservation(self) -> Iterator[None]:
        """Hold the right to make this artifact; others wait instead of paying twice. Losing it loses only money."""
        tools, resource = self._tools, f"artifact:{self._planned.fingerprint}"
        told = False
        while (lease := tools.leases.acquire(resource)) is None:
            holder = tools.leases.holder(resource)
            if not told and holder is not None:
                told = True
                self._record("waiting", {"for": describe(holder.owner), "fingerprint": self._planned.fingerprint})
            if tools.stop.wait(WAIT_S):
                raise CancelledError(f"{self._planned.id}: stopped while another run was making the same artifact")
        tools.keeper.keep(lease)
        try:
            yield
        finally:
            tools.keeper.release(lease)

    def _adopted(self) -> Artifact | None:
        stored = self._tools.artifacts.stored(self._kind.name, self._planned.fingerprint)
        if stored is None:
            return None
        errors, _ = broken_gates(self._planned.spec, stored.manifest.stats)
        if errors:
            raise _gave_up(FailureClass.USER_CODE, f"another run made it: {'; '.join(errors)}")
        if not stored.commit.attempt.startswith(f"{self._tools.run_id}-"):
            self._record(EventKind.STAGE_REUSED, {"fingerprint": self._planned.fingerprint})
        return self._tools.artifacts.open(self._kind.name, self._planned.fingerprint)

    def _withdraw(self) -> None:
        withdraw(
            self._tools.artifacts,
            self._kind.name,
            self._planned.fingerprint,
            run_id=self._tools.run_id,
            reason=f"made again by run {self._tools.run_id}",
        )

    # Attempts.

    def _attempts(self) -> Artifact:
        history: list[PastFailure] = []
        halvings = 0
        while True:
            ended = self._attempt(len(history) + 1, halvings)
            attempt_id = self._attempt_id
            if isinstance(ended, Artifact):
                return ended
            history.append(ended.past)
            answer = decide(history, self._planned.spec.retry, rng=self._rng)
            if not isinstance(answer, Retry):
                end = f"({answer.message}; attempt {attempt_id})\nWhat to do: {answer.what_to_do}"
                message = f"{ended.report.traceback}\n{end}"
                raise _gave_up(ended.past.failure, message)
            halvings = answer.memory_halvings
            cause = f"{ended.past.failure}: {(ended.report.summary.splitlines() or [''])[0][:MAX_SHOWN_CHARACTERS]}"
            log.warning("%s failed (%s); it goes on in %.1f s, %s", self._planned.id, cause, answer.wait_s, answer.why)
            self._record(
                "retry",
                {"failure_class": ended.past.failure, "wait_s": round(answer.wait_s, 3), "memory_halvings": halvings},
                attempt_id=attempt_id,
            )
            if self._tools.stop.wait(answer.wait_s):
                raise CancelledError(f"{self._planned.id}: stopped before it was tried again")

    def _attempt(self, number: int, halvings: int) -> Artifact | _Failed:
        tools = self._tools
        begun = tools.going_on.pop(self._planned.id, None)
        if begun is None:
            attempt_id = f"{tools.run_id}-{self._planned.id}-{tools.epoch}-{number}"
            tools.history.start_attempt(self._intent(attempt_id), epoch=tools.epoch)
            state = AttemptState.INTENT
        else:
            attempt_id, state = begun.attempt_id, begun.state
        self._attempt_id = attempt_id

        def move(new: AttemptState, fields: Mapping[str, JSON], artifact: Artifact | None = None) -> None:
            nonlocal state
            tools.history.transition_attempt(
                attempt_id, state, new, epoch=tools.epoch, fields=fields, artifact=artifact
            )
            state = new

        def started() -> None:
            if state is AttemptState.INTENT:
                move(AttemptState.RUNNING, {})

        work = self._work(attempt_id, halvings)
        with tools.logs.capture(attempt_id):
            try:
                artifact = work.carry_out(started)
            except DRIVER_ENDS:
                raise
            except CancelledError as error:
                work.abandon(str(error))
                move(AttemptState.CANCELLED, {"message": str(error)})
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary that records a failed attempt
                return self._failed(error, work, move)
            finally:
                work.close()
        gates = gates_to_json(gate_results(self._planned.spec, artifact.manifest.stats))
        move(AttemptState.COMMITTED, {"gates": gates} if gates else {}, artifact)
        self._register(artifact, attempt_id)
        return artifact

    def _work(self, attempt_id: str, halvings: int) -> StageWork | JobWork:
        tools = self._tools
        order = Order(
            planned=self._planned,
            inputs=self._inputs,
            run_id=tools.run_id,
            attempt_id=attempt_id,
            epoch=tools.epoch,
            memory_halvings=halvings,
        )
        tracker = tools.history.telemetry.tracker(
            attempt_id, run_id=tools.run_id, stage_id=self._planned.id, epoch=tools.epoch
        )
        if tools.cluster.jobs is not None:
            return JobWork(
                order=order,
                jobs=tools.cluster.jobs,
                artifacts=tools.artifacts,
                plan_digest=tools.plan_digest,
                tracker=tracker,
                history=tools.history,
                stop=tools.stop,
            )
        return StageWork(
            order=order,
            artifacts=tools.artifacts,
            ledger=tools.ledger,
            cluster=tools.cluster,
            tracker=tracker,
            log_stem=tools.logs.stem(attempt_id),
            scratch=tools.scratch / attempt_id,
            stopped=tools.stop.is_set,
        )

    def _register(self, artifact: Artifact, attempt_id: str) -> None:
        """Tell the tracker which model this is, if it is one."""
        if self._kind.model_version is not None:
            version = self._kind.model_version(self._planned.spec.config)
            fields: dict[str, JSON] = {"name": version.name, "alias": version.alias, "uri": artifact.path.as_uri()}
            self._record(EventKind.MODEL_VERSION, fields, attempt_id=attempt_id)

    def _failed(
        self, error: BaseException, work: StageWork | JobWork, move: Callable[[AttemptState, Mapping[str, JSON]], None]
    ) -> _Failed:
        report = report_of(error)
        if isinstance(error, OrchestratorError):  # its message explains itself
            report = replace(report, traceback=str(error), summary=str(error))
        log.info("%s failed (%s): %s", work.order.attempt_id, report.failure, report.traceback)
        if report.failure not in _MISTAKES and not isinstance(error, OrchestratorError):
            report = replace(report, traceback=report.summary)  # the log has the rest
        progressed = self._progressed(work)
        work.abandon(report.summary[:500])
        move(
            AttemptState.FAILED,
            {"failure_class": report.failure, "message": report.summary[:4000], "progressed": progressed},
        )
        return _Failed(past=PastFailure(failure=classify(error), progressed=progressed), report=report)

    def _progressed(self, work: StageWork | JobWork) -> bool:
        """What is not known counts as none: the budget is then used, never given back without a reason."""
        try:
            return work.progressed()
        except StoreError as error:
            log.warning("%s: whether it made progress is not known: %s", work.order.attempt_id, error)
            return False

    def _intent(self, attempt_id: str) -> AttemptIntent:
        spec = self._planned.spec
        return AttemptIntent(
            attempt_id=attempt_id,
            run_id=self._tools.run_id,
            stage_id=spec.id,
            stage_kind=spec.kind.name,
            stage_version=spec.kind.version,
            fingerprint=self._planned.fingerprint,
            config=config_to_json(spec.config),
            inputs=(*self._input_summaries(), *self._source_summaries()),
            fields={"resources": dict(asdict(spec.resources))},
        )

    def _input_summaries(self) -> Iterator[InputSummary]:
        for slot, stages in self._inputs.items():
            for stage in stages:
                name = stage.spec.kind.name
                manifest = self._tools.artifacts.find(name, stage.fingerprint)
                files = manifest.files if manifest else ()
                rows = [entry.rows for entry in files if entry.rows is not None]
                yield InputSummary(
                    slot=slot,
                    kind=stage.spec.kind.output,
                    digest=stage.fingerprint,
                    name=name,
                    bytes=sum(entry.bytes for entry in files),
                    rows=sum(rows) if rows else None,
                    files=len(files),
                )

    def _source_summaries(self) -> Iterator[InputSummary]:
        sources = self._planned.payload.get("sources")
        for name, digest in sources.items() if isinstance(sources, dict) else ():
            yield InputSummary(slot="sources", kind="source", digest=str(digest), name=name)

    def _record(self, kind: str, fields: Mapping[str, JSON], attempt_id: str | None = None) -> None:
        tools = self._tools
        tools.history.record(
            tools.run_id, kind, fields, epoch=tools.epoch, stage_id=self._planned.id, attempt_id=attempt_id
        )
