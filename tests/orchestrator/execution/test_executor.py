"""Running plans of small stages without Ray: order, retries, failures, stops, two drivers."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import failpoints
from orchestrator.artifact import Artifact
from orchestrator.artifacts.run_epochs import RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.errors import (
    CancelledError,
    FencedError,
    LeaseLostError,
    NodeLostError,
    PrecheckError,
    StageFailedError,
    StoppedError,
)
from orchestrator.execution import stage_context
from orchestrator.execution.stop_events import StopEvents
from orchestrator.history.attempts import AttemptIntent
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, Event
from orchestrator.history.run_status import run_status
from orchestrator.logs.lines import time_of_line
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.store_view import plan_view
from orchestrator.stage import Recipe, Resources, RetryPolicy, Slot, StageContext, StageKind, StageSpec
from orchestrator.store.commits import read_outcome
from orchestrator.store.layout import artifact_site
from orchestrator.store.store_identity import read_identity
from orchestrator.workspace import Workspace, new_run_id, stage_rows

TROUBLES: dict[str, Callable[[StageContext], None]] = {}  # by stage id: what happens in `run` before it writes
CALLS: list[str] = []  # stage ids in the order in which `run` was called

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NumberConfig:
    value: int


def write_number(config: NumberConfig, context: StageContext) -> Mapping[str, float]:
    CALLS.append(context.stage_id)
    TROUBLES.get(context.stage_id, lambda _context: None)(context)
    total = config.value + sum(int((artifact.path / "number.txt").read_text()) for artifact in context.inputs("more"))
    (context.output / "number.txt").write_text(str(total))
    log.info("the number of %s is %d", context.stage_id, total)
    return {"number": total}


def refuse_13(config: NumberConfig, _inputs: Mapping[str, Any]) -> None:
    if config.value == 13:
        raise PrecheckError("value: found 13, expected another number")


NUMBER = StageKind(
    name="write_number",
    version=1,
    config=NumberConfig,
    run=write_number,
    output="number@1",
    inputs={"more": Slot(kind="number@1", many=True, required=False)},
    precheck=refuse_13,
)


@dataclass(kw_only=True)
class Site:
    """A workspace with shortcuts to plan and run."""

    workspace: Workspace
    run_ids: list[str] = field(default_factory=list)

    def plan(self, *stages: StageSpec, force: tuple[str, ...] = ()) -> Plan:
        recipe = Recipe(name="numbers", stages=stages)
        view = plan_view(self.workspace.artifacts, self.workspace.database)
        return make_plan(recipe, view, PlanOptions(force=force))

    def run(self, *stages: StageSpec, force: tuple[str, ...] = (), **options: Any) -> dict[str, Artifact]:
        return self.workspace.run_recipe(self.plan(*stages, force=force), on_started=self.run_ids.append, **options)

    def resume(self) -> dict[str, Artifact]:
        return self.workspace.resume(self.run_ids[-1], {NUMBER.name: NUMBER})

    def state(self) -> str:
        return run_status(self.workspace.database, self.run_ids[-1]).run.state

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.workspace.runs.events(self.run_ids[-1]) if event.kind == kind]

    def ends(self) -> list[tuple[str | None, str]]:
        """(stage, state) of every attempt that ended, in order."""
        moves = [(event.stage_id, str(event.fields["to"])) for event in self.events("attempt_state")]
        return [move for move in moves if move[1] not in ("INTENT", "RUNNING")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    TROUBLES.clear()
    CALLS.clear()
    with open_workspace(tmp_path) as workspace:
        yield Site(workspace=workspace)


def open_workspace(root: Path) -> Workspace:
    return Workspace.open(root=root, tracking_url="none", cluster=Cluster(LocalRay(cpus=2)))


def stage(
    name: str, value: int, *upstream: str, cpus: float = 1.0, attempts: int = 3, wait_s: float = 0.01
) -> StageSpec:
    return StageSpec(
        id=name,
        kind=NUMBER,
        config=NumberConfig(value=value),
        inputs={"more": upstream} if upstream else {},
        resources=Resources(cpus=cpus),
        retry=RetryPolicy(attempts=attempts, wait_s=wait_s),
    )


def fail(*errors: BaseException) -> Callable[[StageContext], None]:
    """A stage that raises the errors in turn, then succeeds."""
    left = list(errors)

    def trouble(_context: StageContext) -> None:
        if left:
            raise left.pop(0)

    return trouble


def wait_for_stop(context: StageContext) -> None:
    for _ in range(500):
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped")
        time.sleep(0.02)


def number(artifact: Artifact) -> int:
    return int((artifact.path / "number.txt").read_text())


def test_stages_run_after_their_inputs_and_only_once(site: Site) -> None:
    stages = [stage("one", 1), stage("two", 2), stage("sum", 10, "one", "two")]
    made = site.run(*stages)
    assert {name: number(artifact) for name, artifact in made.items()} == {"one": 1, "two": 2, "sum": 13}
    assert CALLS[-1] == "sum"
    assert made["sum"].manifest.inputs == {"more": (made["one"].fingerprint, made["two"].fingerprint)}
    assert made["sum"].metrics == {"number": 13.0}
    assert site.state() == "SUCCEEDED"
    CALLS.clear()
    assert site.run(*stages) == {}
    assert site.run(*stages, stage("more", 100, "sum"))["more"].metrics == {"number": 113.0}
    assert CALLS == ["more"]


def test_a_stage_writes_four_transactions_and_has_released_its_artifact_with_the_last(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[str] = []
    write = Database.write

    def count(database: Database, work: Callable[[Any], Any]) -> Any:
        writes.append(threading.current_thread().name)
        return write(database, work)

    monkeypatch.setattr(Database, "write", count)
    made = site.run(stage("a", 1))
    assert writes.count("stage a") == 4  # the lease, the attempt, its beginning, its end
    assert site.workspace.leases.holder(f"artifact:{made['a'].fingerprint}") is None


def test_facts_that_a_stage_records_stand_beside_what_the_manifest_says_of_the_attempt(site: Site) -> None:
    TROUBLES["one"] = lambda context: context.record_provenance({"stage": "another", "workers": 3})
    (made,) = site.run(stage("one", 1)).values()
    assert made.manifest.provenance["stage"] == "one"
    assert made.manifest.provenance["facts"] == {"stage": "another", "workers": 3}


def test_independent_stages_run_concurrently(site: Site) -> None:
    meet = threading.Barrier(2, timeout=20)
    TROUBLES["left"] = TROUBLES["right"] = lambda _context: meet.wait() and None  # type: ignore[func-returns-value]  # waits
    assert set(site.run(stage("left", 1), stage("right", 2))) == {"left", "right"}


def test_stages_that_do_not_fit_together_run_one_after_the_other(site: Site) -> None:
    running: list[str] = []

    def alone(context: StageContext) -> None:
        running.append(context.stage_id)
        time.sleep(0.1)
        assert running == [context.stage_id]
        running.clear()

    TROUBLES["small"] = TROUBLES["large"] = alone
    site.run(stage("small", 1, cpus=0.5), stage("large", 2, cpus=8))
    assert [event.stage_id for event in site.events("larger_than_cluster")] == ["large"]


def test_infrastructure_failures_are_retried(site: Site) -> None:
    TROUBLES["one"] = fail(ConnectionError("gone"), ConnectionError("gone again"))
    assert number(site.run(stage("one", 1))["one"]) == 1
    assert site.ends() == [("one", "FAILED"), ("one", "FAILED"), ("one", "COMMITTED")]
    retries = site.events("retry")
    assert [event.fields["failure_class"] for event in retries] == ["infra_transient"] * 2
    keys = [item.key for item in site.workspace.store.list("artifacts") if not item.key.endswith("/STORE")]
    assert len(keys) == 5 + 2  # committed: 5, aborted: 1 each


@pytest.mark.parametrize("point", ["artifact.outcome", "artifact.commit"])
@pytest.mark.parametrize("attempts", [1, 3])
def test_an_attempt_that_failed_after_its_commit_is_found_committed(
    site: Site, monkeypatch: pytest.MonkeyPatch, point: str, attempts: int
) -> None:
    monkeypatch.setattr(failpoints, "_armed", failpoints.parse(f"{point}=raise"))
    site.run(stage("one", 1, attempts=attempts))
    assert CALLS == ["one"]
    assert site.ends() == [("one", "COMMITTED")]
    assert site.state() == "SUCCEEDED"


def test_a_failure_blocks_only_the_stages_that_need_its_output(site: Site) -> None:
    TROUBLES["bad"] = fail(ValueError("no such colour"))
    stages = [stage("bad", 1), stage("good", 2), stage("after-bad", 3, "bad"), stage("after-good", 4, "good")]
    with pytest.raises(StageFailedError) as failure:
        site.run(*stages)
    message = str(failure.value)
    assert f"run {site.run_ids[-1]}: 1 stage failed\n  bad:\n" in message
    assert "ValueError: no such colour" in message
    assert "(user_code: trying again would not help; attempt " in message
    assert "\n  blocked: after-bad\n" in message
    assert sorted(CALLS) == ["after-good", "bad", "good"]
    assert site.state() == "FAILED"
    CALLS.clear()
    assert set(site.resume()) == {"bad", "good", "after-bad", "after-good"}
    assert sorted(CALLS) == ["after-bad", "bad"]
    assert site.state() == "SUCCEEDED"
    assert not site.events("stage_reused")  # its own artifacts do not count as reused


def test_a_retry_budget_is_limited(site: Site) -> None:
    TROUBLES["one"] = fail(*[TimeoutError("slow")] * 9)
    with pytest.raises(StageFailedError, match="infra_transient: 2 of 2 tries used without progress"):
        site.run(stage("one", 1, attempts=2))
    assert CALLS == ["one", "one"]


def test_committed_checkpoints_are_progress(site: Site) -> None:
    def step_and_fail(context: StageContext) -> None:
        latest = context.checkpoints.latest()
        step = latest.step + 1 if latest else 1
        (context.scratch / "state").mkdir()
        (context.scratch / "state" / "weights").write_text(str(step))
        context.checkpoints.commit(step, context.scratch / "state", {})
        if step < 5:
            raise ConnectionError("gone")

    TROUBLES["train"] = step_and_fail
    site.run(stage("train", 1, attempts=2))
    assert len(CALLS) == 5


def test_out_of_memory_halves_the_memory_use(site: Site) -> None:
    seen: list[int] = []

    def trouble(context: StageContext) -> None:
        seen.append(context.memory_halvings)
        if len(seen) < 3:
            raise MemoryError

    TROUBLES["one"] = trouble
    site.run(stage("one", 1))
    assert seen == [0, 1, 2]


def test_a_precheck_fails_before_anything_exists(site: Site) -> None:
    with pytest.raises(PrecheckError, match="value: found 13, expected another number"):
        site.run(stage("one", 1), stage("two", 13))
    assert (CALLS, site.run_ids) == ([], [])


def test_cancel_from_elsewhere_stops_and_resume_continues(site: Site) -> None:
    TROUBLES["slow"] = wait_for_stop

    def cancel_soon(run_id: str) -> None:
        site.run_ids.append(run_id)
        threading.Timer(0.3, site.workspace.cancel, [run_id]).start()

    plan = site.plan(stage("slow", 1), stage("next", 2, "slow"))
    with pytest.raises(CancelledError, match="not done: slow, next"):
        site.workspace.run_recipe(plan, on_started=cancel_soon)
    assert site.state() == "CANCELLED"
    assert site.ends() == [("slow", "CANCELLED")]
    TROUBLES.clear()
    assert number(site.resume()["next"]) == 3


def test_an_attempt_that_was_aborted_elsewhere_stops_and_is_made_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another run that took over the artifact's lease and its checkpoints."""
    monkeypatch.setattr(stage_context, "FENCE_POLL_S", 0.05)
    plan = site.plan(stage("one", 1))

    def abort_then_wait(context: StageContext) -> None:
        TROUBLES.clear()
        site.workspace.artifacts.abort_attempt(plan.stages[0].key, context.attempt_id, reason="another took over")
        wait_for_stop(context)

    TROUBLES["one"] = abort_then_wait
    made = site.workspace.run_recipe(plan, on_started=site.run_ids.append)
    assert number(made["one"]) == 1
    assert site.ends() == [("one", "FAILED"), ("one", "COMMITTED")]
    (retry,) = site.events("retry")
    assert retry.fields["failure_class"] == "infra_transient"


def test_processes_of_an_attempt_are_told_which_store_they_must_see(site: Site) -> None:
    told: list[str] = []
    TROUBLES["one"] = lambda context: told.extend([context.guard.store_id, context.checkpoints.guard.store_id])  # type: ignore[attr-defined]  # of the attempt's own context
    site.run(stage("one", 1))
    identity = read_identity(site.workspace.store)
    assert identity is not None
    assert told == [identity.store_id] * 2


def test_a_stage_that_waits_for_cpus_of_others_says_so(site: Site) -> None:
    seen: list[Any] = []

    def look(_context: StageContext) -> None:
        deadline = time.monotonic() + 20
        while not site.events("waiting") and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.extend(run_status(site.workspace.database, site.run_ids[-1]).stages)

    TROUBLES["first"] = look
    site.run(stage("first", 1, cpus=2.0), stage("second", 2, cpus=1.0))
    first, second = seen
    assert (first.state, second.state) == ("RUNNING", "WAITING")
    assert second.waiting_for == "1 CPUs: 2 of 2 are taken by first"
    assert second.waiting_since is not None
    assert second.message.startswith("waiting for 1 CPUs: 2 of 2 are taken by first since ")
    (event,) = site.events("waiting")
    assert event.stage_id == "second"
    after = run_status(site.workspace.database, site.run_ids[-1]).stages
    assert [(stage.state, stage.waiting_for) for stage in after] == [("COMMITTED", ""), ("COMMITTED", "")]


def test_a_stop_from_this_process_interrupts(site: Site) -> None:
    stop = threading.Event()
    TROUBLES["slow"] = wait_for_stop
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(CancelledError):
        site.run(stage("slow", 1), stops=StopEvents(stop=stop))
    assert site.state() == "INTERRUPTED"


def test_work_that_has_not_stopped_in_time_is_left_and_nothing_of_it_arrives_later(site: Site) -> None:
    """As of a checkpoint that is being written when the process is about to be killed."""
    stops, left = StopEvents(), threading.Event()
    arrived: list[BaseException | int] = []

    def write_for_ever(context: StageContext) -> None:
        TROUBLES.clear()
        context.checkpoints.take_over()
        folder = context.scratch / "1"
        folder.mkdir()
        (folder / "weights").write_text("1")
        context.checkpoints.commit(1, folder, {"step": 1})
        stops.detached.set()  # as the signals do: jobs would go on, and there are none
        stops.stop.set()
        stops.out_of_time.set()
        assert left.wait(20)
        try:
            arrived.append(context.checkpoints.commit(2, folder, {"step": 2}).step)
        except BaseException as error:
            arrived.append(error)
            raise

    TROUBLES["slow"] = write_for_ever
    with pytest.raises(StoppedError, match=": stopped; not done: slow"):
        site.run(stage("slow", 1), stops=stops)
    assert site.state() == "INTERRUPTED"
    assert site.ends() == [("slow", "CANCELLED")]
    left.set()
    deadline = time.monotonic() + 20
    while not arrived and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [type(found) for found in arrived] == [FencedError]
    assert number(site.resume()["slow"]) == 1


def test_a_failure_of_the_infrastructure_during_a_stop_is_part_of_the_stop(site: Site) -> None:
    """Whoever ends a driver often ends its workers, too: systemd sends SIGTERM to all processes of a service."""
    stops = StopEvents()

    def lose_workers(_context: StageContext) -> None:
        TROUBLES.clear()
        stops.stop.set()
        raise NodeLostError("training worker 0 died: SIGTERM")

    TROUBLES["slow"] = lose_workers
    with pytest.raises(StoppedError):
        site.run(stage("slow", 1, attempts=1), stops=stops)
    assert site.state() == "INTERRUPTED"
    assert number(site.resume()["slow"]) == 1


def test_a_second_driver_of_one_run_is_refused(site: Site) -> None:
    TROUBLES["slow"] = wait_for_stop
    stop = threading.Event()
    plan = site.plan(stage("slow", 1))

    def second(run_id: str) -> None:
        site.run_ids.append(run_id)
        threading.Timer(0.3, resume).start()

    answers: list[BaseException] = []

    def resume() -> None:
        try:
            site.resume()
        except LeaseLostError as error:
            answers.append(error)
        stop.set()

    with pytest.raises(CancelledError):
        site.workspace.run_recipe(plan, on_started=second, stops=StopEvents(stop=stop))
    assert "is running it; watch it with `illume status" in str(answers[0])


def test_two_runs_make_a_common_artifact_once(site: Site, tmp_path: Path) -> None:
    TROUBLES["common"] = lambda _context: time.sleep(0.5)
    plans = [site.plan(stage("common", 1), stage(f"own{value}", value, "common")) for value in (5, 6)]
    made: list[dict[str, Artifact]] = []

    def drive(plan: Plan) -> None:
        with open_workspace(tmp_path) as workspace:
            made.append(workspace.run_recipe(plan, on_started=site.run_ids.append))

    threads = [threading.Thread(target=drive, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for answer in made for name in answer) == ["common", "common", "own5", "own6"]
    assert CALLS.count("common") == 1
    kinds = [event.kind for run_id in site.run_ids for event in site.workspace.runs.events(run_id)]
    assert (kinds.count("waiting"), kinds.count("stage_reused")) == (1, 1)


def test_a_forced_stage_runs_again_once(site: Site) -> None:
    stages = [stage("one", 1), stage("two", 2, "one")]
    site.run(*stages)
    CALLS.clear()
    TROUBLES["two"] = fail(ValueError("later"))
    with pytest.raises(StageFailedError):
        site.run(*stages, force=("one",))
    assert CALLS == ["one", "two"]
    site.resume()
    assert CALLS == ["one", "two", "two"]


def test_attempts_of_a_dead_driver_are_lost_or_found_committed(site: Site) -> None:
    workspace, plan = site.workspace, site.plan(stage("lost", 1), stage("committed", 2))
    run_id = new_run_id()
    site.run_ids.append(run_id)
    from orchestrator.artifacts.artifact_store import ManifestDraft
    from orchestrator.planning.plan_file import plan_digest, plan_to_json

    workspace.records.put_plan(plan_digest(plan), plan_to_json(plan))
    workspace.runs.create_run(run_id, recipe_name="numbers", plan_digest=plan_digest(plan), stages=stage_rows(plan))
    lease = workspace.leases.acquire(f"run:{run_id}")
    assert lease is not None
    epoch = workspace.runs.begin_epoch(run_id, lease)
    for planned in plan.stages:
        attempt = AttemptId.of(run_id, planned.id, epoch=epoch, number=1)
        intent = AttemptIntent(
            attempt=attempt,
            key=planned.key,
            stage_version=1,
            config={},
        )
        workspace.runs.start_attempt(intent)
        workspace.runs.transition_attempt(attempt.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
        folder = workspace.artifacts.new_attempt(planned.key, attempt.name)
        if planned.id == "committed":
            (folder.data / "number.txt").write_text("2")
            draft = ManifestDraft(kind="number@1", payload=planned.payload, metrics={})
            workspace.artifacts.commit(folder, draft, epoch=epoch)
    workspace.leases.release(lease)

    assert set(site.resume()) == {"lost", "committed"}
    assert CALLS == ["lost"]
    assert site.ends() == [("lost", "LOST"), ("committed", "COMMITTED"), ("lost", "COMMITTED")]
    assert site.state() == "SUCCEEDED"
    decided = read_outcome(workspace.store, artifact_site(plan.stages[0].key), f"{run_id}-lost-{epoch}-1")
    assert decided is not None
    assert (decided.kind, decided.reason) == ("ABORT", "its driver ended")  # should it live on, it commits nothing
    assert RunEpochs(store=workspace.store, run_id=run_id).newest() == epoch + 1


def test_each_attempt_has_its_log(site: Site) -> None:
    TROUBLES["two"] = fail(ConnectionError("gone"))
    site.run(stage("one", 1), stage("two", 2))
    logs = dict(site.workspace.logs(site.run_ids[-1]))
    assert sorted(logs) == ["one-1-1.log", "two-1-1.log", "two-1-2.log"]
    assert "the number of one is 1" in logs["one-1-1.log"]
    assert "the number of two" not in logs["one-1-1.log"]
    assert "ConnectionError: gone" in logs["two-1-1.log"]
    assert [name for name, _ in site.workspace.logs(site.run_ids[-1], "one")] == ["one-1-1.log"]
    for line in logs["one-1-1.log"].splitlines():
        assert time_of_line(line) is not None
    for said in ("one: attempt ", "one: config {", "one: resources {", "one: metrics: ", " is committed after "):
        assert said in logs["one-1-1.log"]


def test_scratch_folders_and_folders_of_failed_attempts_are_deleted(site: Site) -> None:
    TROUBLES["one"] = fail(ConnectionError("gone"))
    site.run(stage("one", 1))
    assert list((site.workspace.root / "scratch").iterdir()) == []


def test_an_attempt_is_live_while_its_driver_is(site: Site) -> None:
    seen: list[bool] = []
    TROUBLES["one"] = lambda context: seen.append(site.workspace.is_live(context.attempt_id))
    site.run(stage("one", 1))
    assert seen == [True]
    assert not site.workspace.is_live(f"{site.run_ids[-1]}-one-1-1")
    assert not site.workspace.is_live("somebody-else-1-1")
