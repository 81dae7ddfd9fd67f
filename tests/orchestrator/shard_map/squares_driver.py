"""A driver to be killed: `python squares_driver.py ROOT` runs a small plan; with `--again` it continues the newest run.

The shard stage writes squares, the steps stage counts up through checkpoints, the last one adopts the shards' files.
Prints the SHA-256 of every file made, as JSON. Each shard and step adds a line to ROOT/worked.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.errors import CancelledError
from orchestrator.history.run_status import newest_run
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import Location, Recipe, Resources, RetryPolicy, Slot, StageContext, StageKind, StageSpec
from orchestrator.workspace import Workspace

NUM_SHARDS, NUM_STEPS = 8, 8
PAUSE_S = float(os.environ.get("SQUARES_PAUSE_S", "0.3"))
BALLAST_MIB = int(os.environ.get("SQUARES_BALLAST_MIB", "0"))  # memory that a worker holds while it runs a shard


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    root: Location


@dataclass(frozen=True, kw_only=True)
class Squares:
    root: str

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        note(self.root, shard.name)
        ballast = b"x" * (BALLAST_MIB * 2**20)
        time.sleep(PAUSE_S)
        del ballast
        (shard.output / f"{shard.name}.txt").write_text(f"{shard.items[0]} squared")
        return ShardOutcome(rows=1)


def note(root: str, line: str) -> None:
    with Path(root, "worked").open("a") as file:
        file.write(f"{line}\n")


def run_squares(config: DriverConfig, context: StageContext) -> Mapping[str, float]:
    shards = [Shard(name=f"s{number}", items=(number,)) for number in range(NUM_SHARDS)]
    for record in context.map_shards(Squares(root=config.root), shards, label="squares", identity={}):
        context.adopt(record)
    return {}


def run_steps(config: DriverConfig, context: StageContext) -> Mapping[str, float]:
    latest = context.checkpoints.latest()
    lines = (latest.path / "lines").read_text() if latest else ""
    for step in range(latest.step + 1 if latest else 1, NUM_STEPS + 1):
        note(config.root, f"step{step}")
        time.sleep(PAUSE_S)
        lines += f"step {step}\n"
        folder = context.scratch / str(step)
        folder.mkdir()
        (folder / "lines").write_text(lines)
        context.checkpoints.commit(step, folder, {})
        if context.stop_requested():
            raise CancelledError(f"stopped after step {step}")
    names = sorted(path.name for path in context.input("squares").path.iterdir())
    (context.output / "lines").write_text(lines + " ".join(names))
    return {}


SQUARES = StageKind(name="squares", version=1, config=DriverConfig, run=run_squares, output="squares@1")
STEPS = StageKind(
    name="steps",
    version=1,
    config=DriverConfig,
    run=run_steps,
    output="lines@1",
    inputs={"squares": Slot(kind="squares@1")},
)


def main(root: str) -> None:
    config = DriverConfig(root=Location(root))
    resources, retry = Resources(workers=2), RetryPolicy(wait_s=0.1)
    specs = [(SQUARES, {}), (STEPS, {"squares": ("squares",)})]
    stages = tuple(
        StageSpec(id=kind.name, kind=kind, config=config, inputs=inputs, resources=resources, retry=retry)
        for kind, inputs in specs
    )
    cluster = Cluster(LocalRay(cpus=2))
    with Workspace.open(root=Path(root) / "illume", tracking_url="none", cluster=cluster) as workspace:
        newest = newest_run(workspace.database)
        if newest is not None and "--again" in sys.argv:
            made = workspace.resume(newest.run_id, {kind.name: kind for kind, _ in specs})
        else:
            plan = make_plan(Recipe(name="squares", stages=stages), PlanView(find=workspace.artifacts.find))
            made = workspace.run_recipe(plan)
    digests = {
        f"{stage}/{entry.path}": entry.sha256 for stage, artifact in made.items() for entry in artifact.manifest.files
    }
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    main(sys.argv[1])
