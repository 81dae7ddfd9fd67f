"""`illume estimate`: whether the trainings of a recipe fit, how long they take, and what they cost."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from clusters.planner.estimate import Assumptions, TrainingEstimate
from clusters.planner.intervals import HOURS_BETWEEN_FAILURES, FailureModel
from clusters.planner.machines import MachineType, machine_from_text
from clusters.planner.measured import measured_in
from clusters.planner.prices import BUILT_IN, Prices, load_prices
from clusters.planner.recipes import StageEstimate, estimate_plan
from clusters.planner.timing import PeakShares
from clusters.profiles import machines_of, profile_at
from orchestrator.commands.shared.estimate_json import estimates_to_json
from orchestrator.commands.shared.formatting import bytes_text, count_text, duration_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import console
from orchestrator.commands.shared.narrow import print_table
from orchestrator.commands.shared.numbers import ABOVE_ZERO, AT_LEAST_ZERO
from orchestrator.commands.shared.options import (
    Locations,
    cluster_option,
    examples,
    json_option,
    location_options,
    open_workspace,
    read_recipe,
    recipe_options,
)
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import PlanOptions, make_plan
from orchestrator.planning.store_view import plan_view

_GIB = 2**30


@click.command(
    "estimate",
    epilog=examples(
        "estimate illume_plus_3b --gpus 64xH100",
        "estimate illume_plus_7b --gpus 64xH100 --gpus 64xH200 # the cheapest that works",
        "estimate my.yaml --cluster profile.yaml --prices ours.yaml --json",
    ),
)
@recipe_options
@location_options
@cluster_option
@click.option("--gpus", "texts", multiple=True, metavar="COUNTxGPU", help="Machines to estimate for, e.g. 64xH100.")
@click.option("--prices", "prices_file", type=Path, default=BUILT_IN, help="A price file of yours.", show_default=False)
@click.option(
    "--peak-share",
    type=ABOVE_ZERO,
    default=0.35,
    show_default=True,
    help="Of the bf16 peak that computing is to reach.",
)
@click.option(
    "--hours-between-failures",
    type=ABOVE_ZERO,
    default=HOURS_BETWEEN_FAILURES,
    show_default=True,
    help="Of one accelerator.",
)
@click.option(
    "--preemptions-per-day",
    type=AT_LEAST_ZERO,
    default=0.0,
    show_default=True,
    help="Of a whole training, on spot machines.",
)
@click.option(
    "--checkpoint-gbs",
    type=ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="GB/s that one writer brings to the store.",
)
@json_option
def estimate_command(
    recipe: str,
    overrides: tuple[str, ...],
    options: PlanOptions,
    locations: Locations,
    profile: str | None,
    texts: tuple[str, ...],
    prices_file: Path,
    peak_share: float,
    hours_between_failures: float,
    preemptions_per_day: float,
    checkpoint_gbs: float,
    as_json: bool,
) -> None:
    """Say whether each training of RECIPE fits its machines, how long it takes and what it costs. Starts nothing.

    The machines are those of the profile (`machines`), or --gpus. What does not fit is shown with the smallest change
    that does; its time and cost are those of the change. Stages that exist already cost nothing.
    """
    machines = _machines(profile, texts)
    prices = load_prices(prices_file)
    try:
        assumptions = Assumptions(
            peak_shares=PeakShares(low=peak_share * 0.7, expected=peak_share, high=min(1.0, peak_share * 1.3)),
            failures=FailureModel(
                hours_between_failures=hours_between_failures, preemptions_per_day=preemptions_per_day
            ),
            checkpoint_gbs=checkpoint_gbs,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    parsed = read_recipe(recipe, overrides)
    with open_workspace(locations) as workspace:
        plan = make_plan(parsed, plan_view(workspace.artifacts, workspace.database, on_absent=_ignore), options)
        measured = measured_in(workspace.database, plan)
        estimates = estimate_plan(plan, machines, prices, assumptions, measured)
    today = dt.datetime.now(tz=dt.UTC).date()
    if as_json:
        echo_json("estimate", estimates_to_json(plan.recipe, estimates, prices, assumptions))
    else:
        print_estimates(estimates, machines, prices, assumptions)
    if prices.is_old(today):
        click.echo(f"warning: prices are of {prices.date}; give today's with --prices FILE", err=True)


def _ignore(_message: str) -> None:
    """Sources that are away change neither memory nor time."""


def _machines(profile: str | None, texts: Sequence[str]) -> Mapping[str, MachineType]:
    given = {text: machine_from_text(text) for text in texts}
    if given or profile is None:
        return given
    found = machines_of(profile_at(profile))
    if not any(machine.gpus for machine in found.values()):
        raise RecipeError(f"{profile}: machines: found no machine type with accelerators; list them, or give --gpus")
    return found


def print_estimates(
    estimates: Sequence[StageEstimate],
    machines: Mapping[str, MachineType],
    prices: Prices,
    assumptions: Assumptions,
) -> None:
    trainings = [estimate for estimate in estimates if estimate.facts is not None]
    if trainings:
        print_table(_cost_table(trainings), console())
    if any(estimate.trainings for estimate in trainings):
        click.echo("")
        print_table(_machine_table(trainings), console())
    for line in _other_lines([estimate for estimate in estimates if estimate.facts is None]):
        click.echo(line)
    for line in _measured_lines(trainings):
        click.echo(line)
    click.echo("")
    for line in _closing_lines(estimates, machines, prices, assumptions):
        click.echo(line)


def _other_lines(estimates: Sequence[StageEstimate]) -> list[str]:
    """Stages that are no trainings, or whose size no config says: measured before, or unknown for a reason."""
    lines = [""] if estimates else []
    unknown: dict[str, list[str]] = {}
    for estimate in estimates:
        if estimate.measured_s is None:
            unknown.setdefault(estimate.unknown, []).append(estimate.stage_id)
        else:
            lines.append(
                f"{estimate.stage_id}: about {duration_text(estimate.measured_s)}, from its last runs, scaled to what "
                "is to be done"
            )
    return lines + [f"unknown, {reason}: {', '.join(names)}" for reason, names in unknown.items()]


def _measured_lines(trainings: Sequence[StageEstimate]) -> list[str]:
    """What real runs said, and which assumptions it replaces."""
    lines = []
    for estimate in trainings:
        name, found = estimate.stage_id, estimate.measured
        if estimate.measured_s is not None:
            lines.append(f"{name}: took {duration_text(estimate.measured_s)} where it last ran, scaled to these steps")
        if found is None:
            continue
        speed = f"{found.flops_per_s[1] / 1e12:,.0f} TFLOP/s of the model on each of {found.workers} {found.device}"
        stall = "" if found.stall_s is None else f", {found.stall_s:.3g} s lost to each checkpoint"
        used = [training.machine for training in estimate.trainings if training.is_measured]
        use = f"used for {', '.join(used)}" if used else "its speed is not that of these machines"
        count = "1 attempt" if found.attempts == 1 else f"{found.attempts} attempts"
        where = f"{count}, the newest in run {found.run_id}"
        lines.append(f"{name}: measured with {found.strategy}: {speed}{stall} ({where}); {use}")
    return lines and ["", *lines]


def _cost_table(trainings: Sequence[StageEstimate]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("stage", "item", "steps", "items a step", "samples a step", "parameters", "train", "TFLOP an item"):
        table.add_column(title, overflow="fold", justify="left" if title in ("stage", "item") else "right")
    for estimate in trainings:
        facts = estimate.facts
        assert facts is not None
        table.add_row(
            estimate.stage_id,
            facts.item,
            f"{facts.steps:,}",
            f"{facts.items_per_step:,}",
            f"{facts.items_per_step * facts.samples_per_item:,.0f}" if facts.samples_per_item else "unknown",
            count_text(facts.parameters),
            count_text(facts.trained_parameters),
            f"{facts.training_flops / 1e12:.3g}",
        )
    return table


def _machine_table(trainings: Sequence[StageEstimate]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("stage", "machines", "GiB a GPU", "fits", "a step", "time", "GPU hours", "cost", "checkpoint every"):
        table.add_column(title, overflow="fold", no_wrap=title in ("stage", "machines"))
    for estimate in trainings:
        for training in estimate.trainings:
            verdict = training.verdict
            fits = "yes" if verdict.fits else f"with {verdict.change_text}" if verdict.change else "no"
            row: tuple[str | Text, ...] = (
                f"{verdict.parts.total / _GIB:.1f} of {verdict.usable / _GIB:.1f}",
                Text(fits, style="green" if verdict.fits else "yellow" if verdict.change else "bold red"),
                *(_timed(training) if training.possible else ("", "", "", "", "")),
            )
            best = training is estimate.chosen and len(estimate.trainings) > 1
            table.add_row(estimate.stage_id, training.machine + (" *" if best else ""), *row)
    return table


def _timed(training: TrainingEstimate) -> tuple[str, ...]:
    hours, checkpoint = training.gpu_hours, training.checkpoint
    cost = training.cost
    every = "never" if math.isinf(checkpoint.interval_s) else duration_text(checkpoint.interval_s)
    return (
        duration_text(training.step.total_s),
        duration_text(training.wall_s.expected),
        f"{hours.expected:,.0f} ({hours.low:,.0f} to {hours.high:,.0f})",
        f"{cost.low:,.0f} to {cost.high:,.0f} {cost.currency}" if cost else "unknown",
        f"{every} ({bytes_text(checkpoint.bytes)}, {checkpoint.waste_share:.1%} lost)",
    )


def _closing_lines(
    estimates: Sequence[StageEstimate],
    machines: Mapping[str, MachineType],
    prices: Prices,
    assumptions: Assumptions,
) -> list[str]:
    chosen = [estimate.chosen for estimate in estimates if estimate.chosen]
    lines = []
    if chosen:
        hours = [sum(getattr(training.gpu_hours, end) for training in chosen) for end in ("low", "expected", "high")]
        text = f"trainings together: {hours[1]:,.0f} GPU hours ({hours[0]:,.0f} to {hours[2]:,.0f})"
        costs = [training.cost for training in chosen if training.cost]
        if len(costs) == len(chosen):
            low, high = sum(cost.low for cost in costs), sum(cost.high for cost in costs)
            text += f", {low:,.0f} to {high:,.0f} {costs[0].currency} at prices of {prices.date}"
        else:
            text += ", money unknown: no price of these accelerators; give --prices FILE"
        lines.append(text)
    stuck = [estimate.stage_id for estimate in estimates if estimate.trainings and not estimate.chosen]
    if stuck:
        lines.append(f"fits nowhere: {', '.join(stuck)}; use accelerators with more memory, or a smaller model")
    if not machines:
        lines.append("no machines: give --gpus 64xH100 or a profile with `machines` for memory, time and money")
        return lines
    shares, failures = assumptions.peak_shares, assumptions.failures
    lines.append(
        f"assumed: computing at {shares.expected:.0%} of the bf16 peak ({shares.low:.0%} to {shares.high:.0%}), a "
        f"failure of one accelerator every {failures.hours_between_failures:,.0f} hours, "
        f"{failures.preemptions_per_day:g} preemptions a day, {assumptions.checkpoint_gbs:g} GB/s for a writer"
    )
    notes = {note for estimate in estimates for training in estimate.trainings for note in training.notes}
    said = {line for estimate in estimates if estimate.facts for line in estimate.facts.assumptions}
    return [*lines, *(f"note: {line}" for line in sorted(notes | said))]
