"""`illume samples`: what a step of a training learned from."""

from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    stage_kinds,
    target_argument,
)
from orchestrator.commands.shared.targets import TargetCommand, find_target
from orchestrator.errors import RecipeError

if TYPE_CHECKING:
    from stages.provenance.step_samples import StepSample

MAX_CHARS = 200  # of a turn in a terminal


@click.command(
    "samples", cls=TargetCommand, epilog=examples("samples last:mllm_2 300", "samples quickstart:mllm_2 300 --json")
)
@target_argument
@click.argument("step", type=click.IntRange(min=1))
@location_options
@plugin_option
@json_option
def samples_command(target: str | None, step: int, locations: Locations, as_json: bool) -> None:
    """Show what a step of a training learned from. TARGET is RUN:STAGE; steps are counted as in the curves, from 1.

    It follows from the order of the data, so it is computed. The JSON says where each sample lies and holds no text: a
    copy of it says nothing of what was taken down meanwhile.
    """
    from stages.provenance.step_samples import samples_of_step  # late: loads what reads datasets

    with open_workspace(locations) as workspace:
        found = find_target(workspace.database, target)
        if found.stage_id is None:
            raise RecipeError(f"{target or 'last'}: found a run, expected RUN:STAGE, e.g. last:mllm_2")
        plan = workspace.plan_of(found.run.run_id, stage_kinds(), allow_changed_kinds=True)
        samples = samples_of_step(workspace, plan, found.stage_id, step)
        inputs = plan.stage(found.stage_id).spec.inputs.get("datasets", ())
        datasets = [str(plan.stage(name).fingerprint) for name in inputs]
    if as_json:
        known = {"run_id": found.run.run_id, "stage": found.stage_id, "step": step}
        echo_json("samples", {**known, "samples": [_to_json(sample, datasets) for sample in samples]})
        return
    click.echo(f"step {step:,} of {found.run.run_id}:{found.stage_id}: {len(samples)} samples")
    for sample in samples:
        click.echo("\n" + sample_text(sample))


def sample_text(found: "StepSample") -> str:
    """A sample for a terminal."""
    sample = found.sample
    images = ", ".join(f"{image.width} x {image.height}" for image in sample.images) or "none"
    texts = [(turn.role, " ".join(turn.text.split())[:MAX_CHARS]) for turn in sample.turns]
    turns = [f"  {role}: {text}" for role, text in texts]
    head = f"{sample.sample_id[:16]}  {sample.task}, {sample.source}; images: {images}; shard {found.shard}"
    return "\n".join([head, *turns])


def _to_json(found: "StepSample", datasets: list[str]) -> dict[str, Any]:
    return {
        "sample_id": found.sample.sample_id,
        "task": found.sample.task,
        "source": found.sample.source,
        "images": [[image.width, image.height] for image in found.sample.images],
        "dataset": datasets[found.dataset],
        "shard": found.shard,
        "offset": found.offset,
        "span_bytes": found.span_bytes,
    }
