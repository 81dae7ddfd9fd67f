"""The process that computes the samples of a step: it loads what reads datasets and models, answers, and ends."""

import json
import sys

import click

from orchestrator.artifact import JSON
from orchestrator.commands.shared.options import Locations, location_options, open_workspace, stage_kinds
from orchestrator.errors import OrchestratorError


@click.command()
@click.argument("run")
@click.argument("stage")
@click.argument("step", type=int)
@location_options
def main(run: str, stage: str, step: int, locations: Locations) -> None:
    """Print the samples of a step as JSON, or why they are not known."""
    answer: dict[str, JSON] = {"samples": [], "problem": ""}
    try:
        answer["samples"] = _samples(run, stage, step, locations)
    except (OrchestratorError, ValueError, OSError) as error:  # also a damaged dataset
        answer["problem"] = str(error)
    click.echo(json.dumps(answer))


def _samples(run: str, stage: str, step: int, locations: Locations) -> list[JSON]:
    from stages.provenance.step_samples import samples_of_step  # late: loads what reads datasets

    with open_workspace(locations) as workspace:
        plan = workspace.plan_of(run, stage_kinds(), allow_changed_kinds=True)
        if stage not in [planned.id for planned in plan.stages]:
            raise ValueError(f"run {run}: has no stage {stage!r}")
        datasets = [str(plan.stage(name).fingerprint) for name in plan.stage(stage).spec.inputs.get("datasets", ())]
        return [
            {
                "sample_id": found.sample.sample_id,
                "task": found.sample.task,
                "source": found.sample.source,
                "turns": [[turn.role, turn.text] for turn in found.sample.turns],
                "images": [[image.width, image.height] for image in found.sample.images],
                "dataset": datasets[found.dataset],
                "shard": found.shard,
                "offset": found.offset,
                "span": found.span_bytes,
            }
            for found in samples_of_step(workspace, plan, stage, step)
        ]


if __name__ == "__main__":
    sys.exit(main())
