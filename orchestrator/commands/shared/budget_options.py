"""Budgets on the command line, and their check against the estimate."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clusters.planner.estimate import Assumptions
from clusters.planner.machines import MachineType
from clusters.planner.measured import measured_in
from clusters.planner.prices import BUILT_IN, Prices, load_prices
from clusters.planner.recipes import StageEstimate, estimate_plan
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.history.database.database import Database
from orchestrator.planning.plan import Plan
from orchestrator.queue.records import MAX_PRIORITY, Limits

UNITS = ("gpu_hours", "money")
PRIORITY = click.IntRange(-MAX_PRIORITY, MAX_PRIORITY)


def _limits(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> Limits:
    return limits_of(texts)


budget_option = click.option(
    "--budget",
    multiple=True,
    metavar="gpu_hours=N|money=N",
    callback=_limits,
    help="The run is warned about at 80 % of it, and stops at a commit point at 100 %.",
)


def limits_of(texts: tuple[str, ...]) -> Limits:
    """Raises: RecipeError: a text is no budget."""
    found: dict[str, Any] = {}
    for text in texts:
        unit, _, amount = text.partition("=")
        try:
            value = float(amount)
            if unit not in UNITS or not 0 < value < float("inf"):
                raise ValueError
        except ValueError:
            raise RecipeError(f"--budget: found {text!r}, expected gpu_hours=200 or money=900") from None
        if unit in found:
            raise RecipeError(f"--budget: found {unit} twice: {found[unit]:g} and {value:g}; give it once")
        found[unit] = value
    return Limits(**found)


def current_prices(file: Path, budget: Limits) -> Prices:
    """The prices in a file. Raises: PrecheckError: they are needed, or the user names them, and they are old."""
    prices = load_prices(file)
    if prices.is_old(dt.datetime.now(tz=dt.UTC).date()) and (file != BUILT_IN or budget.money is not None):
        raise PrecheckError(
            f"--prices: found prices of {prices.date} in {file}, which are old; give a file with those of today"
        )
    return prices


def check_budget(
    plan: Plan, machines: Mapping[str, MachineType], prices: Prices, budget: Limits, database: Database
) -> None:
    """Refuse a run whose budget is below what it is expected to take, by what its earlier runs measured if they did.

    Raises: PrecheckError: it is; or it is in money, and the price of an accelerator is unknown.
    """
    if not budget.is_set:
        return
    all_stages = estimate_plan(plan, machines, prices, Assumptions(), measured_in(database, plan))
    estimates = [found for found in all_stages if found.facts is not None]
    hours = sum(found.chosen.gpu_hours.expected for found in estimates if found.chosen)
    if budget.gpu_hours is not None and hours > budget.gpu_hours:
        raise PrecheckError(
            f"--budget: gpu_hours={budget.gpu_hours:g} is below the estimate of {_amount(hours)} GPU hours "
            f"({_parts(estimates)}); raise it, or change the recipe: `illume estimate` shows how"
        )
    if budget.money is None:
        return
    unpriced = [found.stage_id for found in estimates if found.chosen and found.chosen.cost is None]
    if unpriced:
        raise PrecheckError(
            f"--budget: money cannot be counted for {', '.join(unpriced)}: the prices of {prices.date} have no such "
            "accelerator; give --prices FILE, or a budget in gpu_hours"
        )
    ranges = [found.chosen.cost for found in estimates if found.chosen and found.chosen.cost]
    cost = sum((expected.low + expected.high) / 2 for expected in ranges)
    if cost > budget.money:
        raise PrecheckError(
            f"--budget: money={budget.money:g} is below the estimate of {_amount(cost)} {prices.currency} at prices of "
            f"{prices.date}; raise it, or change the recipe: `illume estimate` shows how"
        )


def _parts(estimates: list[StageEstimate]) -> str:
    chosen = {found.stage_id: found.chosen for found in estimates if found.chosen}
    return ", ".join(f"{stage_id} {_amount(option.gpu_hours.expected)}" for stage_id, option in chosen.items())


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
