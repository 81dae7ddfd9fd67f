"""`illume plan` and `illume recipes`: shows what a recipe would run, and lists the built-in recipes."""

import click
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.formatting import duration_text, short
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import console
from orchestrator.commands.shared.narrow import print_table
from orchestrator.commands.shared.options import (
    Locations,
    complete_recipe,
    examples,
    json_option,
    known_recipes,
    location_options,
    open_workspace,
    read_recipe,
    recipe_file,
    recipe_options,
)
from orchestrator.planning.plan import Plan, PlanOptions, make_plan, run_prechecks
from orchestrator.planning.plan_file import plan_to_json
from orchestrator.planning.reasons import CodeChanged
from orchestrator.planning.store_view import plan_view
from orchestrator.stage import StageSpec

ACTION_STYLES = {"run": "bold green", "reuse": "dim", "skip": "dim"}


@click.command(
    "plan",
    epilog=examples(
        "plan quickstart", "plan my.yaml --set stages.curated.config.min_side=40", "plan my.yaml --code fail --json"
    ),
)
@recipe_options
@location_options
@click.option(
    "--check", is_flag=True, help="Also run the configuration check of every stage that would run (can take long)."
)
@json_option
def plan_command(
    recipe: str,
    overrides: tuple[str, ...],
    options: PlanOptions,
    locations: Locations,
    check: bool,
    as_json: bool,
) -> None:
    """Show what would run, what is reused, and why. Runs nothing.

    RECIPE is a file or the name of a built-in recipe.
    """
    parsed = read_recipe(recipe, overrides)
    with open_workspace(locations) as workspace:
        view = plan_view(workspace.artifacts, workspace.database, on_absent=warn_absent)
        plan = make_plan(parsed, view, options)
    if check:
        run_prechecks(plan)
    if as_json:
        echo_json("plan", plan_to_json(plan))
    else:
        print_plan(plan)
    warn_of_changed_code(plan)


def warn_absent(message: str) -> None:
    click.echo(f"warning: {message}; planned as never made, `run` needs it", err=True)


@click.command("recipes", epilog=examples("recipes", "recipes photos # prints it", "recipes photos > my.yaml"))
@click.argument("name", required=False, shell_complete=complete_recipe)
@json_option
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the recipes that `plan` and `run` take by name, built in and of installed packages, or print one."""
    if name is not None:
        click.echo(recipe_file(name).read_text(encoding="utf-8"), nl=False)
        return
    found = known_recipes()
    if as_json:
        echo_json("recipes", {"recipes": {name: str(file) for name, file in found.items()}})
        return
    for recipe, file in found.items():
        first = next((line for line in file.read_text().splitlines() if line.startswith("#")), "")
        click.echo(f"{recipe:20} {first.lstrip('# ')}".rstrip())


def print_plan(plan: Plan) -> None:
    """Print a row per stage and a line of totals."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("stage", "kind", "action", "why", "estimate", "identity"):
        table.add_column(title, overflow="fold", no_wrap=title in ("stage", "kind", "action", "identity"))
    for stage in plan.stages:
        reasons = [reason for reason in stage.reasons if stage.action == "run" or not isinstance(reason, CodeChanged)]
        table.add_row(
            Text(stage.id),
            Text(stage.spec.kind.name),
            Text(stage.action, style=ACTION_STYLES[stage.action]),
            Text("\n".join(str(reason) for reason in reasons)),
            Text(duration_text(stage.estimate_s) if stage.estimate_s is not None else ""),
            Text(short(stage.fingerprint), style="dim"),
        )
    print_table(table, console())
    for stage in plan.to_run:
        if stage.spec.kind.amount is not None:
            click.echo(f"{stage.id}: {stage.spec.kind.amount(stage.spec.config)}")
        for line in preview_lines(stage.spec):
            click.echo(line)
    click.echo(totals_text(plan))


def preview_lines(spec: StageSpec) -> list[str]:
    """What a stage reads from outside the store, and how; empty if its kind does not say."""
    if spec.kind.preview is None:
        return []
    try:
        lines = spec.kind.preview(spec.config)
    except (OSError, ValueError) as error:
        return [f"{spec.id} reads: {error}"]
    return [f"{spec.id} reads:", *(f"  {line}" for line in lines)] if lines else []


def totals_text(plan: Plan) -> str:
    counts = [sum(stage.action == action for stage in plan.stages) for action in ACTION_STYLES]
    text = f"{counts[0]} to run, {counts[1]} reused, {counts[2]} skipped"
    known = [stage.estimate_s for stage in plan.to_run if stage.estimate_s is not None]
    if known:
        unknown = len(plan.to_run) - len(known)
        text += f"; about {duration_text(sum(known))}" + (f" and {unknown} stages never timed" if unknown else "")
    return text


def warn_of_changed_code(plan: Plan) -> None:
    """Warn about reused stages that were made by other code than the current one."""
    for stage in plan.stages:
        for reason in stage.reasons:
            if isinstance(reason, CodeChanged) and stage.action == "reuse":
                click.echo(f"warning: {stage.id} is reused, though {reason}; --code rerun makes it again", err=True)
