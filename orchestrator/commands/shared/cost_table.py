"""What a run cost so far, as a table or JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import console
from orchestrator.commands.shared.narrow import print_table
from orchestrator.history.database.database import Database
from orchestrator.history.run_status import RunStatus
from orchestrator.queue.entries import submission_of
from orchestrator.queue.spending import AttemptCost, Spent, costs_of, lost, retries, total_of


def print_cost(database: Database, status: RunStatus, *, as_json: bool) -> None:
    """Of each stage that was at work, and of all: all attempts, those after the first, those that were lost."""
    run_id = status.run.run_id
    submission = submission_of(database, run_id)
    wanted = {stage.stage_id for stage in status.stages}
    costs = costs_of(database, {run_id: submission} if submission else {}, runs=[run_id])
    costs = [cost for cost in costs if cost.stage_id in wanted]
    stages = {name: [cost for cost in costs if cost.stage_id == name] for name in dict.fromkeys(_names(costs))}
    if as_json:
        found = [{"stage": name, **_parts_json(of_stage)} for name, of_stage in stages.items()]
        echo_json("status COST", {"run_id": run_id, "total": _parts_json(costs), "stages": found})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("stage", "attempts", "GPU hours", "of retries", "of lost work", "CPU hours", "money"):
        table.add_column(title, justify="left" if title == "stage" else "right", overflow="fold")
    for name, of_stage in {**stages, "all": costs}.items():
        spent = total_of(of_stage)
        hours = [f"{total_of(part).gpu_hours:,.2f}" for part in (of_stage, retries(of_stage), lost(of_stage))]
        money = "unknown" if spent.money is None else f"{spent.money:,.2f}"
        table.add_row(name, str(len(of_stage)), *hours, f"{spent.cpu_hours:,.2f}", money)
    print_table(table, console())


def _names(costs: Sequence[AttemptCost]) -> list[str]:
    return [cost.stage_id for cost in costs]


def _parts_json(costs: Sequence[AttemptCost]) -> dict[str, Any]:
    def one(spent: Spent) -> dict[str, Any]:
        return {"gpu_hours": spent.gpu_hours, "cpu_hours": spent.cpu_hours, "money": spent.money}

    parts = {"spent": costs, "retries": retries(costs), "lost": lost(costs)}
    return {"attempts": len(costs), **{name: one(total_of(part)) for name, part in parts.items()}}
