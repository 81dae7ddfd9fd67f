"""Opens everything that a command needs: the store, the index database, the tracking sinks.

By default all of it is below `.illume/` in the working folder or the nearest folder above it. Opening starts neither
Ray nor MLflow.
"""

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import select

from orchestrator import failpoints
from orchestrator.actor import current_actor
from orchestrator.artifact import JSON, Artifact
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.takedowns import Takedown, put_takedown, read_takedowns
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import DatabaseError, RecipeError
from orchestrator.execution.cancelling import Cancellation, cancel_run
from orchestrator.execution.executor import Executor
from orchestrator.execution.stop_events import StopEvents
from orchestrator.execution.takeover import Takeover
from orchestrator.history.changes import record_change
from orchestrator.history.database.database import Database, database_exists, sqlite_address
from orchestrator.history.database.file_system import check_local
from orchestrator.history.database.known_store import establish_known_store, remembered_store
from orchestrator.history.database.schema import attempts, runs
from orchestrator.history.leases import Leases
from orchestrator.history.open_attempts import open_attempts
from orchestrator.history.run_store import RunStore
from orchestrator.liveness.liveness import Liveness
from orchestrator.logs.reading import LineFilter, LogReader, by_file
from orchestrator.logs.run_logs import RunLogs
from orchestrator.planning.plan import Plan, check_needs, run_prechecks, stage_rows, tainted_stages
from orchestrator.planning.plan_file import digest_of, plan_from_json, plan_to_json, stages_with_secrets
from orchestrator.plugins.table import plugins_to_json
from orchestrator.recipe.loading import Kinds
from orchestrator.retention.taint_removal import retract_tainted
from orchestrator.sinks.file_sinks import JsonLinesSink, StoreSink
from orchestrator.sinks.mlflow_sink import MlflowSink
from orchestrator.sinks.openlineage_sink import OpenLineageSink
from orchestrator.sinks.outbox import Outbox, Sink
from orchestrator.store.copies.copy_budget import CACHE_VARIABLE, budget_bytes, cache_of_node
from orchestrator.store.store import Store, open_store, probe
from orchestrator.store.store_identity import check_store
from orchestrator.times import iso_time

log = logging.getLogger(__name__)

ROOT_NAME = ".illume"
ROOT_VARIABLE = "ILLUME_HOME"  # environment: the folder itself, whatever the working folder
NO_TRACKING = "none"
SQLITE = "sqlite:///"
STOP_DRAIN_S = 3.0  # the same after a stop: whoever asked for it may kill this process soon
DRAIN_S = 30.0  # how long the end of a run waits for the sinks; the next command delivers the rest


@dataclass(kw_only=True)
class Workspace:
    """The opened store, database and cluster. Context manager; leaving it delivers buffered metrics and closes all."""

    root: Path  # local folder for the database, caches and files of sinks
    store: Store
    artifacts: ArtifactStore
    ledger: ShardLedger
    database: Database
    runs: RunStore
    leases: Leases
    records: RunRecords
    tracking_url: str
    cluster: Cluster
    has_index: bool  # False: there was no database, so an empty one stands in and is deleted in the end
    _open: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(
        cls,
        store_url: str | None = None,
        database_url: str | None = None,
        tracking_url: str | None = None,
        root: Path | None = None,
        *,
        cluster: Cluster | None = None,
        create: bool = True,
    ) -> "Workspace":
        """Open a workspace. `tracking_url` "none" turns MLflow off. The default cluster is a small Ray on this machine.

        Without a `root` it is the folder of `workspace_root`. Without `create` no workspace is made: an
        empty database (`has_index`) and a temporary folder stand in for those that do not exist.

        Raises:
            RecipeError: an address is not valid.
            StoreError, DatabaseError: the store or the database cannot be used.
        """
        root = (root or workspace_root()).absolute()
        database_url = database_url or str(root / "index.db")
        has_index = create or database_exists(database_url)
        with ExitStack() as opening:
            if not has_index or not (create or root.is_dir()):
                stand_in = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="illume-")))
                database_url = database_url if has_index else str(stand_in / "index.db")
                root = root if root.is_dir() else stand_in
            store = open_store(store_url or root / "store")
            database = Database(database_url)
            opening.callback(database.close)
            kept_open = opening.pop_all()
        cache = cache_of_node(store.url) if os.environ.get(CACHE_VARIABLE) else root / "cache"
        if not store.is_local:
            budget_bytes(cache)  # a setting that is no size is refused now, not by the first download
        workspace = cls(
            root=root,
            store=store,
            artifacts=ArtifactStore(store, cache),
            ledger=ShardLedger(store, cache),
            database=database,
            runs=RunStore(database),
            leases=Leases(database),
            records=RunRecords(store),
            tracking_url=tracking_url or sqlite_address(root / "mlflow.db"),
            cluster=cluster or Cluster(),
            has_index=has_index,
            _open=kept_open,
        )
        workspace._open.callback(workspace.runs.close)
        return workspace

    def check_store(self) -> None:
        """Make sure that the store is the one that the database belongs to, and that all of it is there.

        Raises:
            UnreachableStoreError, ForeignStoreError: see `store_identity.check_store`.
        """
        check_store(self.store, remembered_store(self.database))

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def run_recipe(
        self,
        plan: Plan,
        *,
        run_id: str | None = None,
        stops: StopEvents | None = None,
        on_started: Callable[[str], None] = lambda _run_id: None,
        fields: Mapping[str, JSON] | None = None,
    ) -> dict[str, Artifact]:
        """Run a plan as a new run. Calls `on_started` with the run's id before any stage starts.

        Set the events of `stops` from a signal handler to stop cleanly. `fields` are stored in the run's first event.

        Raises: as `Executor.run`; PrecheckError also before the run exists, if a stage cannot work.
        """
        failpoints.hit("run.checking")
        self._refuse_secrets(plan)
        check_needs(plan)
        run_prechecks(plan)
        executor = self._executor()
        executor.check(plan)
        self.prepare_store(plan)
        run_id = run_id or new_run_id()
        self.create_run(plan, run_id, fields)
        return self._run(executor, plan, run_id, stops or StopEvents(), on_started)

    def create_run(self, plan: Plan, run_id: str, fields: Mapping[str, JSON] | None = None) -> None:
        """Record a plan and a run of it, which has not begun. Creating the same run again does nothing."""
        data = plan_to_json(plan)
        digest = digest_of(data)
        self.records.put_plan(digest, data)
        self.runs.create_run(
            run_id,
            recipe_name=plan.recipe,
            plan_digest=digest,
            stages=stage_rows(plan),
            fields={"file": plan.file, **_plugin_fields(plan), **(fields or {})},
        )

    def deliver(self, run_id: str) -> None:
        """Deliver the events of a run that is not at work."""
        with Outbox(self.database, self.sinks()) as outbox:
            outbox.follow(run_id)
            self._drain(outbox)

    def resume(
        self,
        run_id: str,
        kinds: Kinds,
        *,
        stops: StopEvents | None = None,
        on_started: Callable[[str], None] = lambda _run_id: None,
        accept_taint: bool = False,
        secrets: Plan | None = None,
    ) -> dict[str, Artifact]:
        """Continue a run with its original plan; finished stages, shards and checkpoints are kept.

        `secrets`: a plan of the same recipe, for secrets in configurations, which no record holds.

        Raises: as `Executor.run`; RecipeError: the plan is gone, the stage kinds have changed since, or a takedown
            forbids artifacts that it would use.
        """
        plan = self.plan_of(run_id, kinds, secrets=secrets)
        self._refuse_secrets(plan)
        self._refuse_tainted(plan, run_id, accept_taint=accept_taint)
        check_needs(plan)
        run_prechecks(plan)
        self.prepare_store(plan)
        return self._run(self._executor(), plan, run_id, stops or StopEvents(), on_started)

    def plan_of(
        self, run_id: str, kinds: Kinds, *, allow_changed_kinds: bool = False, secrets: Plan | None = None
    ) -> Plan:
        """The plan of a run; with `allow_changed_kinds` also one that cannot be run any more.

        Raises:
            DatabaseError: there is no such run.
            RecipeError: the plan is gone, or the stage kinds have changed since.
        """
        query = select(runs.c.plan_digest).where(runs.c.run_id == run_id)
        digest = self.database.read(lambda connection: connection.execute(query).scalar_one_or_none())
        if digest is None:
            raise DatabaseError(f"run {run_id}: not in {self.database.address}; `illume status` lists the runs")
        data = self.records.plan(digest)
        if data is None:
            raise RecipeError(f"run {run_id}: its plan {digest} is not in {self.store.url}; start again: `illume run`")
        return plan_from_json(data, kinds, digest=digest, allow_changed_kinds=allow_changed_kinds, secrets=secrets)

    def _refuse_secrets(self, plan: Plan) -> None:
        """Raises: RecipeError: a stage with a secret would be a job, which reads its plan from the store."""
        for stage_id in stages_with_secrets(plan) if self.cluster.jobs is not None else ():
            raise RecipeError(
                f"stages.{stage_id}.config: holds a secret, which a job on a cluster is not sent, as all it is sent "
                "is kept in the store; let the stage read it from the environment of its node"
            )

    def _refuse_tainted(self, plan: Plan, run_id: str, *, accept_taint: bool) -> None:
        takedowns, find = read_takedowns(self.store), self.artifacts.find
        tainted = tainted_stages(plan, takedowns, find=find, forbid_tainted_models=not accept_taint)
        if tainted:
            stage_id, forbidding = next(iter(tainted.items()))
            more = f" and {len(tainted) - 1} more stages" if len(tainted) > 1 else ""
            raise RecipeError(
                f"run {run_id}: stage {stage_id!r}{more} would use content that was taken down "
                f"({', '.join(forbidding)}); `illume run` with its recipe makes a plan without it"
            )

    @property
    def liveness(self) -> Liveness:
        """Answers who is alive. Asks the cluster about jobs if the workspace has one."""
        return Liveness(store=self.store, database=self.database, leases=self.leases, jobs=self.cluster.jobs)

    def cancel(self, run_id: str, *, patience_s: float = 0.0) -> Cancellation:
        """Stop a run, wherever its driver is and whether it has one. See `cancel_run`."""
        return cancel_run(self._takeover(), run_id, patience_s=patience_s)

    def take_down(self, takedown: Takedown) -> None:
        """Make a takedown take effect and retract what it taints. Can be interrupted and repeated.

        Raises:
            RecipeError: a run may be working, which might use or make what is retracted; or another takedown has this
                id.
        """
        for life in self.liveness.working_runs():
            raise RecipeError(
                f"takedown {takedown.id!r}: run {life.run_id} may use or make what is retracted: {life.describe()}; "
                f"stop it first: `illume cancel {life.run_id}`"
            )
        self._abort_leftovers(takedown)
        record_change(self.store, "takedown", [takedown.id])
        known = {recorded.id: recorded for recorded in read_takedowns(self.store)}.get(takedown.id)
        if known is None or takedown != replace(known, created=takedown.created, by=takedown.by):
            applied = iso_time(time.time())
            put_takedown(self.store, replace(takedown, created=applied, by=current_actor().name))
        retract_tainted(self.artifacts, takedown)
        with Outbox(self.database, self.sinks()) as outbox:
            for artifact in takedown.tainted:
                if artifact.is_kept and self._knows_attempt(artifact.attempt_id):
                    self.runs.record_tainted_model(
                        artifact.run_id, takedown.id, stage_id=artifact.stage_id, attempt_id=artifact.attempt_id
                    )
                    outbox.follow(artifact.run_id)
            self._drain(outbox)

    def _abort_leftovers(self, takedown: Takedown) -> None:
        """Abort what drivers that are gone left open, so that a process of it that nobody sees commits nothing more."""
        for attempt in open_attempts(self.database):
            self.artifacts.abort_attempt(attempt.key, attempt.id.name, reason=f"takedown {takedown.id}")

    def _knows_attempt(self, attempt_id: str) -> bool:
        query = select(attempts.c.attempt_id).where(attempts.c.attempt_id == attempt_id)
        return self.database.read(lambda connection: connection.execute(query).scalar_one_or_none()) is not None

    def logs(self, run_id: str, stage_id: str | None = None) -> list[tuple[str, str]]:
        """(file name, text) of each log of a run, or of one stage, oldest first."""
        wanted = LineFilter(stages=[stage_id] if stage_id else [])
        reader = LogReader(logs=RunLogs(store=self.store, state=self.root, run_id=run_id), filter=wanted)
        files = by_file(reader.read_new(is_over=True))
        return [(file, "\n".join(line.text for line in lines)) for file, lines in files.items()]

    def is_live(self, attempt_id: str) -> bool:
        """True while the attempt may still write: as a job, or in a driver that is not gone."""
        return self.liveness.may_write(attempt_id)

    def _takeover(self) -> Takeover:
        return Takeover(artifacts=self.artifacts, history=self.runs, leases=self.leases, liveness=self.liveness)

    def prepare_store(self, plan: Plan) -> None:
        """Probe the store, give it its identity, and remember that the database belongs to it.

        Raises: also UnfitDatabaseError: the tracking data would be a file of SQLite on a network file system.
        """
        if self.tracking_url.startswith(SQLITE):
            file = Path(self.tracking_url.removeprefix(SQLITE)).absolute()
            check_local(file, "tracking database", "`--tracking sqlite:////local/disk/mlflow.db`, a server, or none")
        self.check_store()
        probe(self.store)
        establish_known_store(self.database, self.store, [stage.spec.kind.name for stage in plan.stages])

    def _executor(self) -> Executor:
        return Executor(
            artifacts=self.artifacts, history=self.runs, leases=self.leases, cluster=self.cluster, state=self.root
        )

    def _run(
        self,
        executor: Executor,
        plan: Plan,
        run_id: str,
        stops: StopEvents,
        on_started: Callable[[str], None],
    ) -> dict[str, Artifact]:
        with Outbox(self.database, self.sinks()) as outbox:
            outbox.follow(run_id)
            failpoints.hit("run.created")
            on_started(run_id)
            try:
                return executor.run(plan, run_id, stops=stops)
            finally:
                self.runs.telemetry.flush()
                self._drain(outbox, STOP_DRAIN_S if stops.stop.is_set() else DRAIN_S)

    def _drain(self, outbox: Outbox, timeout_s: float = DRAIN_S) -> None:
        for sink, waiting in outbox.drain(timeout_s).items():
            log.warning("%s: %d events are not delivered yet; the next run delivers them", sink, waiting)

    def sinks(self) -> list[Sink]:
        """Where events are delivered to."""
        sinks: list[Sink] = [
            StoreSink(self.records),
            JsonLinesSink(self.root / "events.jsonl"),
            OpenLineageSink(self.root / "lineage.jsonl", store_url=self.store.url),
        ]
        if self.tracking_url != NO_TRACKING:
            sinks.append(MlflowSink(self.tracking_url, store_url=self.store.url))
        return sinks


def workspace_root() -> Path:
    """The folder of the workspace: `$ILLUME_HOME`, else the nearest `.illume/` from the working folder upwards.

    If there is none, it is `.illume/` in the working folder, which does not exist yet.
    """
    if os.environ.get(ROOT_VARIABLE):
        return Path(os.environ[ROOT_VARIABLE]).absolute()
    here = Path.cwd()
    return next(
        (folder / ROOT_NAME for folder in (here, *here.parents) if (folder / ROOT_NAME).is_dir()), here / ROOT_NAME
    )


def _plugin_fields(plan: Plan) -> dict[str, JSON]:
    plugins = plugins_to_json(stage.spec.kind for stage in plan.stages)
    return {"plugins": plugins} if plugins else {}


def new_run_id() -> str:
    """A unique id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
