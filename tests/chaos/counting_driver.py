"""A driver without Ray, to be killed: `python counting_driver.py ROOT` counts through checkpoints, then doubles.

Continues the newest run if there is one. Each piece of work leaves a line in ROOT/worked. Prints the SHA-256 of every
file made, as JSON. The environment may name another store (COUNTING_STORE) and database (COUNTING_DATABASE), a folder
of jobs that the stages run as (COUNTING_JOBS), and a pause before each step (COUNTING_PAUSE_S).
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import Artifact
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.cli import exit_code
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.commands import stage_driver
from orchestrator.commands.shared.stopping import StopSignals, grace_s
from orchestrator.errors import CancelledError, RecipeError, StoppedError
from orchestrator.execution import job_attempt, stage_run
from orchestrator.history.run_status import newest_run
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.stage import Location, Recipe, Resources, RetryPolicy, Slot, StageContext, StageKind, StageSpec
from orchestrator.workspace import Workspace
from tests.chaos.folder_jobs import FolderJobs

STEPS = 4


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    root: Location


def note(config: CountConfig, line: str) -> None:
    with Path(config.root, "worked").open("a") as file:
        file.write(f"{line}\n")


def count(config: CountConfig, context: StageContext) -> Mapping[str, float]:
    latest = context.checkpoints.latest()
    lines = (latest.path / "lines").read_text() if latest else ""
    for step in range(latest.step + 1 if latest else 1, STEPS + 1):
        time.sleep(float(os.environ.get("COUNTING_PAUSE_S", "0")))
        note(config, f"step{step}")
        lines += f"step {step}\n"
        folder = context.scratch / str(step)
        folder.mkdir()
        (folder / "lines").write_text(lines)
        context.checkpoints.commit(step, folder, {})
        context.checkpoints.prune(2)
        if context.stop_requested():
            raise CancelledError(f"stopped at step {step}")
    (context.output / "lines").write_text(lines)
    (context.output / "more").mkdir()
    (context.output / "more" / "length").write_text(str(len(lines)))
    return {"steps": float(STEPS)}


def double(config: CountConfig, context: StageContext) -> Mapping[str, float]:
    note(config, "double")
    counted = context.input("counted").path
    (context.output / "twice").write_text((counted / "lines").read_text() * 2)
    return {}


COUNT = StageKind(name="count", version=1, config=CountConfig, run=count, output="counted@1")
DOUBLE = StageKind(
    name="double",
    version=1,
    config=CountConfig,
    run=double,
    output="doubled@1",
    inputs={"counted": Slot(kind="counted@1")},
)
KINDS = {kind.name: kind for kind in (COUNT, DOUBLE)}


def recipe(root: Path) -> Recipe:
    stages = tuple(
        StageSpec(
            id=kind.name,
            kind=kind,
            config=CountConfig(root=Location(str(root))),
            inputs=inputs,
            resources=Resources(workers=1),
            retry=RetryPolicy(wait_s=0.05),
        )
        for kind, inputs in ((COUNT, {}), (DOUBLE, {"counted": ("count",)}))
    )
    return Recipe(name="counting", stages=stages)


def plan_of(root: Path, workspace: Workspace) -> Plan:
    view = PlanView(find=workspace.artifacts.find, takedowns=read_takedowns(workspace.store))
    return make_plan(recipe(root), view)


def open_workspace(root: Path) -> Workspace:
    """A workspace in the folder, but for what the environment names."""
    store, database = os.environ.get("COUNTING_STORE"), os.environ.get("COUNTING_DATABASE")
    jobs = os.environ.get("COUNTING_JOBS")
    cluster = Cluster(FolderJobs(folder=Path(jobs)) if jobs else LocalRay(cpus=1))
    return Workspace.open(store, database, root=root / "illume", tracking_url="none", cluster=cluster)


def main(root: Path) -> None:
    job_attempt.POLL_S, stage_run.WAIT_S = 0.1, 0.1
    with StopSignals(grace_s=grace_s(None)) as signals, open_workspace(root) as workspace:
        newest = newest_run(workspace.database)
        made: Mapping[str, Artifact]

        def begin(_run_id: str) -> None:
            signals.begin()

        if newest is None:
            made = workspace.run_recipe(plan_of(root, workspace), stops=signals.events, on_started=begin)
        else:
            try:
                made = workspace.resume(newest.run_id, KINDS, stops=signals.events, on_started=begin)
            except RecipeError:  # a takedown forbids its plan
                made = workspace.run_recipe(plan_of(root, workspace), stops=signals.events, on_started=begin)
    digests = {
        f"{stage}/{entry.path}": entry.sha256 for stage, artifact in made.items() for entry in artifact.manifest.files
    }
    sys.stdout.write(json.dumps(digests, sort_keys=True))


if __name__ == "__main__":
    if sys.argv[1] == "stage-driver":
        stage_driver.cluster_of_this_job = lambda: Cluster(LocalRay(cpus=1))  # its stages need no Ray
        sys.exit(exit_code(sys.argv[1:], KINDS))
    try:
        main(Path(sys.argv[1]))
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
