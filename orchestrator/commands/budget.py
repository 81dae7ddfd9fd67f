"""`illume budget`: what may be spent in a calendar month, by a user or by everybody."""

import time

import click

from orchestrator.commands.shared.budget_options import limits_of
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    reason_option,
)
from orchestrator.errors import RecipeError
from orchestrator.queue.records import Budget, Limits
from orchestrator.queue.rows import add_record, newest, newest_of
from orchestrator.scheduler.budgets import EVERYBODY, USER
from orchestrator.times import iso_time


@click.group("budget")
def budget_command() -> None:
    """What may be spent in a calendar month (UTC). Runs are warned about at 80 %, and stop at 100 %."""


@budget_command.command("set", epilog=examples("budget set user:ada gpu_hours=500", "budget set all money=20000"))
@click.argument("who")
@click.argument("limits", nargs=-1, required=True, metavar="gpu_hours=N|money=N")
@location_options
@reason_option
def set_command(who: str, limits: tuple[str, ...], locations: Locations) -> None:
    """Set the budget of WHO: user:NAME, or all."""
    _record(who, limits_of(limits), locations)


@budget_command.command("lift", epilog=examples("budget lift user:ada"))
@click.argument("who")
@location_options
@reason_option
def lift_command(who: str, locations: Locations) -> None:
    """Let WHO spend without a limit again."""
    _record(who, Limits(), locations)


@budget_command.command("list", epilog=examples("budget list --json"))
@location_options
@json_option
def list_command(locations: Locations, as_json: bool) -> None:
    """List the budgets."""
    with open_workspace(locations, needs_store=False) as workspace:
        found = {who: budget for who, budget in newest(workspace.database, Budget).items() if budget.limits.is_set}
    if as_json:
        budgets = [
            {"who": who, "gpu_hours": found[who].limits.gpu_hours, "money": found[who].limits.money} for who in found
        ]
        echo_json("budget list", {"budgets": budgets})
        return
    if not found:
        click.echo("no budgets; `illume budget set WHO gpu_hours=N` sets one")
    for who, budget in found.items():
        click.echo(f"{who}: {limits_text(budget.limits)} a month, set by {budget.by.name}")


def limits_text(limits: Limits) -> str:
    """For people: `500 GPU hours, 20000 in money`."""
    amounts = {"GPU hours": limits.gpu_hours, "in money": limits.money}
    return ", ".join(f"{amount:g} {unit}" for unit, amount in amounts.items() if amount is not None)


def _record(who: str, limits: Limits, locations: Locations) -> None:
    """Set or lift a budget, and say what holds now. Raises: RecipeError: it is so already, or WHO is nobody."""
    check_who(who)
    with open_workspace(locations, create=True) as workspace:
        known = newest_of(workspace.database, Budget, who)
        before = Limits() if known is None else known[1].limits
        if before == limits:
            found = f"has a budget of {limits_text(limits)} a month already" if limits.is_set else "has no budget"
            raise RecipeError(f"budget: {who} {found}; nothing was changed, `illume budget list` shows the budgets")
        add_record(workspace.store, workspace.database, "budgets", who, Budget(at=iso_time(time.time()), limits=limits))
    now = f"{limits_text(limits)} a month" if limits.is_set else "no limit any more"
    click.echo(f"{who}: {now}" + (f"; before: {limits_text(before)}" if before.is_set else ""))


def check_who(who: str) -> None:
    """Raises: RecipeError: it names neither a user nor everybody."""
    if who == EVERYBODY:
        return
    name = who.removeprefix(USER)
    if name == who or not name or name != name.strip() or not name.isprintable():
        raise RecipeError(f"budget: found {who!r}, expected {USER}NAME, as the queue shows the name, or {EVERYBODY}")
