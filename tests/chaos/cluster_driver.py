"""A driver on a cluster whose parts are killed: `python -m tests.chaos.cluster_driver ROOT ADDRESS WORKERS [STAGE]`.

Makes squares shard by shard on two workers, then trains a toy model on 1 to WORKERS, or only one of the two;
continues the newest run if any. The address `processes` means training workers without Ray, all WORKERS of them,
`local` a Ray of its own. Exit code 85 after a signal.
Prints the SHA-256 of every file made, as JSON. Steps of data that are named in ROOT/poison hold a NaN.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from orchestrator.cluster.ray_cluster import Cluster, LocalRay, RayAddress
from orchestrator.commands.shared.stopping import StopSignals, grace_s
from orchestrator.errors import StoppedError
from orchestrator.history.run_status import newest_run
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.stage import Location, Recipe, Resources, RetryPolicy, Slot, StageContext, StageKind, StageSpec
from orchestrator.workspace import Workspace
from stages.training.checkpoints.reader import load_trained_weights
from stages.training.config import LoopConfig, OptimizerConfig
from stages.training.driver import train
from tests.orchestrator.shard_map.squares_driver import SQUARES, DriverConfig
from tests.stages.training.toy import ToyProgram, ToyTask

CHECKPOINT_EVERY = 4
HANG_AFTER_S = float(os.environ.get("CLUSTER_HANG_AFTER_S", "1800"))
PAUSE_S = float(os.environ.get("CLUSTER_PAUSE_S", "0.1"))  # that each micro-batch takes
LOOP = LoopConfig(steps=24, micro_batches_per_step=3, seed=5, optimizer=OptimizerConfig(warmup_share=0.2))


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    root: Location


def run_training(config: TrainConfig, context: StageContext) -> Mapping[str, float]:
    root = Path(config.root)
    poison = tuple(map(int, lines(root / "poison")))
    task = ToyTask(pause_s=PAUSE_S, log=str(root / "steps"), hold=str(root / "hold"), poison_data=poison)
    result = train(ToyProgram, task, LOOP, context)
    program = ToyProgram(task)
    load_trained_weights(result.checkpoint.path, "model", program.model)
    save_file(program.model.state_dict(), context.output / "model.safetensors")
    return {}


TRAIN = StageKind(
    name="train_toy",
    version=1,
    config=TrainConfig,
    run=run_training,
    output="toy@1",
    inputs={"squares": Slot(kind="squares@1", required=False)},
)
KINDS = {kind.name: kind for kind in (SQUARES, TRAIN)}


def recipe(root: str, workers: int, stages: str = "all") -> Recipe:
    retry = RetryPolicy(wait_s=0.1, checkpoint_every=CHECKPOINT_EVERY, hang_after_s=HANG_AFTER_S)
    squares = StageSpec(
        id="squares",
        kind=SQUARES,
        config=DriverConfig(root=Location(root)),
        inputs={},
        resources=Resources(workers=2),
        retry=retry,
    )
    training = StageSpec(
        id="train_toy",
        kind=TRAIN,
        config=TrainConfig(root=Location(root)),
        inputs={"squares": ("squares",)} if stages == "all" else {},
        resources=Resources(workers=workers, min_workers=1),
        retry=retry,
    )
    return Recipe(name="cluster", stages=tuple(spec for spec in (squares, training) if stages in ("all", spec.id)))


def main(root: str, address: str, workers: int, stages: str = "all") -> None:
    own = {"processes": LocalRay(plain_training_workers=True), "local": LocalRay(cpus=2, plain_training_workers=False)}
    cluster = Cluster(own.get(address, RayAddress(address=address)))
    with (
        StopSignals(grace_s=grace_s(None)) as signals,
        Workspace.open(root=Path(root) / "illume", tracking_url="none", cluster=cluster) as workspace,
    ):
        newest = newest_run(workspace.database)

        def begin(_run_id: str) -> None:
            signals.begin()

        if newest is None:
            plan = make_plan(recipe(root, workers, stages), PlanView(find=workspace.artifacts.find))
            made = workspace.run_recipe(plan, stops=signals.events, on_started=begin)
        else:
            made = workspace.resume(newest.run_id, KINDS, stops=signals.events, on_started=begin)
    digests = {
        f"{stage}/{entry.path}": entry.sha256 for stage, artifact in made.items() for entry in artifact.manifest.files
    }
    sys.stdout.write(json.dumps(digests))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
