"""The library door: what the command line does, from Python and from notebooks.

    from orchestrator.library import Workspace

    workspace = Workspace.open()
    workspace.run("quickstart")
    workspace.artifact("curated").path

Public are `Workspace` and the values that its methods return. Mistakes in recipes and arguments, and work that failed,
are raised as children of `orchestrator.errors.OrchestratorError`, with the message that the command line prints.
"""

import copy
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from clusters.connect import connect
from clusters.profiles import profile_at
from orchestrator import workspace as kernel
from orchestrator.artifact import JSON, Artifact
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.commands.run import show_run_live
from orchestrator.commands.shared.options import recipe_file
from orchestrator.commands.shared.questions import NEAR_BITS, make_questions
from orchestrator.commands.shared.targets import artifact_of_stage, find_artifact, find_run, is_identity_prefix
from orchestrator.continuation import finished_run, interrupted_run
from orchestrator.errors import RecipeError, StoreError
from orchestrator.execution.stop_events import StopEvents
from orchestrator.history.run_status import RunStatus, RunSummary, list_runs, run_status
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.store_view import plan_view
from orchestrator.plugins.table import all_kinds, with_kinds
from orchestrator.recipe.loading import Kinds, decode_recipe, load_recipe
from orchestrator.stage import Recipe, StageKind
from stages import STAGE_KINDS

if TYPE_CHECKING:
    from data_pipelines.inference.image_tokenizer import ImageTokenizer
    from stages.provenance.trace import Trace

RecipeSource = str | Path | Mapping[str, JSON]
TOKENIZER = "tokenizer@1"


class Workspace:
    """Runs recipes, and opens what runs have made. Opened by `Workspace.open`; close it, or use it in a `with` block.

    A recipe is a file, the name of a built-in recipe, or a mapping with its content. A run is an id, a prefix of one, a
    recipe's name for its newest run, or `last`; by default the newest run.
    """

    def __init__(self, locations: Mapping[str, Any], kinds: Kinds, cluster: Cluster) -> None:
        """Use `Workspace.open`."""
        self._locations, self._kinds, self._cluster = locations, kinds, cluster
        self._opened: kernel.Workspace | None = None

    @classmethod
    def open(
        cls,
        root: str | Path | None = None,
        *,
        store: str | None = None,
        database: str | None = None,
        tracking: str | None = None,
        cluster: str | None = None,
        kinds: Iterable[StageKind[Any]] = (),
        plugins: Sequence[str] = (),
    ) -> "Workspace":
        """Open a workspace. Nothing is written before the first `run`.

        `root`: the workspace's folder; by default `$ILLUME_HOME`, else the nearest `.illume/` from the working folder
        upwards, as for the command line. `store`, `database`, `tracking`, `cluster`: as the options of these names; by
        default the variables `ILLUME_STORE`, `ILLUME_DATABASE`, `ILLUME_TRACKING` and `ILLUME_CLUSTER`. `kinds`: stage
        kinds of your own, beside the built-in ones and those of installed packages; `plugins`: more of them by name, as
        the option `--plugin`: "module:NAME" or "./file.py:NAME".

        Example: `Workspace.open(store="s3://bucket/prefix", tracking="none")`

        Raises:
            RecipeError: an address or a profile cannot be used.
            PluginError: a plugin cannot be used, or two kinds have one name.
        """
        profile = cluster or os.environ.get("ILLUME_CLUSTER")
        locations = {
            "store_url": store or os.environ.get("ILLUME_STORE"),
            "database_url": database or os.environ.get("ILLUME_DATABASE"),
            "tracking_url": tracking or os.environ.get("ILLUME_TRACKING"),
            "root": Path(root) if root is not None else kernel.workspace_root(),
        }
        known = with_kinds(all_kinds(STAGE_KINDS, plugins), kinds)
        return cls(locations, known, connect(profile_at(profile)) if profile else Cluster())

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, deliver buffered metrics, and end a Ray that this workspace started on this machine."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self._cluster.close()

    def plan(self, recipe: RecipeSource, *, overrides: Sequence[str] = (), options: PlanOptions | None = None) -> Plan:
        """What `run` would do: for each stage `run`, `reuse` or `skip`, with the reasons. Runs nothing.

        Example: `workspace.plan("quickstart", overrides=["stages.curated.config.min_side=40"]).to_run`

        Raises: RecipeError: names every problem of the recipe.
        """
        return self._plan(self._kernel(), recipe, overrides, options)

    def run(
        self,
        recipe: RecipeSource,
        *,
        overrides: Sequence[str] = (),
        options: PlanOptions | None = None,
        show: bool = True,
    ) -> RunStatus:
        """Run a recipe and wait for its end. Existing artifacts are reused, an interrupted run is continued.

        `show`: print the progress. The first interrupt (Ctrl-C, or the stop button of a notebook) stops at the next
        commit point, the second raises KeyboardInterrupt; running again continues.

        Example: `workspace.run("quickstart").run.state`

        Raises:
            RecipeError, PrecheckError: nothing ran.
            StageFailedError: stages failed for good; the others ran as far as possible.
            CancelledError: it was stopped.
        """
        workspace = self._kernel(create=True)
        plan = self._plan(workspace, recipe, overrides, options)
        finished = finished_run(workspace, plan)
        if finished is not None:
            return run_status(workspace.database, finished.run_id)
        interrupted = interrupted_run(workspace, plan, self._kinds)
        accept_taint = options is not None and options.accept_taint
        start = (
            partial(workspace.resume, interrupted.run_id, self._kinds, accept_taint=accept_taint)
            if interrupted is not None
            else partial(workspace.run_recipe, plan)
        )
        started: list[str] = []
        with ExitStack() as stack:

            def on_started(run_id: str) -> None:
                started.append(run_id)
                if show:
                    stack.enter_context(show_run_live(workspace, run_id, as_json=False))

            start(stops=StopEvents(stop=stack.enter_context(_stop_on_interrupt())), on_started=on_started)
        return run_status(workspace.database, started[0])

    def runs(self, *, limit: int = 50) -> list[RunSummary]:
        """The newest runs first."""
        return list_runs(self._kernel().database, limit=limit)

    def status(self, run: str | None = None) -> RunStatus:
        """A run and the state of each of its stages. Raises: RecipeError: there is no such run, or more than one."""
        database = self._kernel().database
        return run_status(database, find_run(database, run).run_id)

    def artifact(self, target: str, *, run: str | None = None) -> Artifact:
        """The output of a stage: its files below `path`, and its `manifest` with metrics, parents and provenance.

        `target`: a stage of `run`; or RUN:STAGE; or the first digits of an artifact's identity. From a remote store the
        files are downloaded.

        Example: `workspace.artifact("curated").manifest.metrics["kept"]`

        Raises:
            RecipeError: there is no such stage, or it has no output yet.
            CorruptArtifactError: its files are damaged.
        """
        workspace = self._kernel()
        if ":" not in target:
            status = self.status(run)
            if target in {stage.stage_id for stage in status.stages} or not is_identity_prefix(target):
                return workspace.artifacts.open(artifact_of_stage(workspace.artifacts, status, target).manifest.key)
        stored = find_artifact(workspace.artifacts, workspace.database, target)
        return workspace.artifacts.open(stored.manifest.key)

    def trace(
        self, *what: str | Path, run: str | None = None, source_urls: Sequence[str] = (), near: int = NEAR_BITS
    ) -> "Trace":
        """Follow samples through a run: datasets, token files, training steps, checkpoints and models.

        `what`: image files, sample ids, SHA-256 of images, ids that a source gave, or files with lists of these.
        `source_urls`: addresses or sources, with shell wildcards. `near`: bits of 64 in which near-duplicates may
        differ.

        Example: `workspace.trace("picture.jpg").saw`, the stages whose models were trained on it

        Raises: RecipeError: there is nothing to search for, or no curated dataset yet.
        """
        from stages.provenance.trace import trace_run  # late: loads numpy and pyarrow

        workspace = self._kernel()
        questions = make_questions(tuple(str(text) for text in what), tuple(source_urls), near)
        run_id = find_run(workspace.database, run).run_id
        return trace_run(workspace, workspace.plan_of(run_id, self._kinds, allow_changed_kinds=True), questions)

    def tokenizer(self, target: str | None = None, *, device: str = "cpu") -> "ImageTokenizer":
        """The image tokenizer that a stage made: PIL images to codes and back.

        `target`: as for `artifact`; by default the last stage of the newest run that makes a tokenizer.

        Example: `workspace.tokenizer().encode(image)`

        Raises: RecipeError: there is none.
        """
        from data_pipelines.inference.image_tokenizer import ImageTokenizer  # late: loads torch

        return ImageTokenizer.load(self.artifact(target or self._last_making(TOKENIZER)).path, device=device)

    def _last_making(self, kind: str) -> str:
        """RUN:STAGE of the newest run's last stage whose output is of this kind."""
        run = self.status().run
        plan = self._kernel().plan_of(run.run_id, self._kinds, allow_changed_kinds=True)
        found = [stage.id for stage in plan.stages if stage.spec.kind.output == kind]
        if not found:
            raise RecipeError(
                f"run {run.run_id} of {run.recipe!r}: no stage makes a {kind!r}; name one as RUN:STAGE of another run"
            )
        return f"{run.run_id}:{found[-1]}"

    def _plan(
        self,
        workspace: kernel.Workspace,
        recipe: RecipeSource,
        overrides: Sequence[str],
        options: PlanOptions | None,
    ) -> Plan:
        view = plan_view(workspace.artifacts, workspace.database)
        return make_plan(_read(recipe, self._kinds, overrides), view, options)

    def _kernel(self, *, create: bool = False) -> kernel.Workspace:
        """The opened store and database. Without `create` an absent workspace looks empty, and none is made."""
        if self._opened is not None and not self._opened.has_index:  # by now there may be one
            self._opened.close()
            self._opened = None
        if self._opened is None:
            opened = kernel.Workspace.open(**self._locations, cluster=self._cluster, create=create)
            try:
                opened.check_store()
            except StoreError:
                opened.close()
                raise
            self._opened = opened
        return self._opened


def _read(recipe: RecipeSource, kinds: Kinds, overrides: Sequence[str]) -> Recipe:
    if isinstance(recipe, str | Path):
        return load_recipe(recipe_file(str(recipe)), kinds, tuple(overrides))
    if isinstance(recipe, Mapping):
        return decode_recipe(copy.deepcopy(dict(recipe)), kinds, overrides)
    raise RecipeError(
        f"recipe: found a {type(recipe).__name__}; expected a file, the name of a built-in recipe, or a mapping"
    )


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first interrupt sets; the second acts as before. Only the main thread receives interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
