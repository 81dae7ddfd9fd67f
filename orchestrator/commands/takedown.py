"""`illume takedown plan | apply | receipt | list`: what must go, letting it go, and the proof."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.artifacts.takedowns import (
    TaintedArtifact,
    find_takedown,
    read_takedowns,
    takedown_from_json,
    takedown_to_json,
)
from orchestrator.commands.shared.formatting import bytes_text, duration_text
from orchestrator.commands.shared.options import Places, json_option, open_workspace, place_options, stage_kinds
from orchestrator.commands.shared.questions import question_options
from orchestrator.errors import RecipeError
from orchestrator.identity import to_json
from orchestrator.planning.plan import Plan
from orchestrator.reports.attestation import signed
from orchestrator.retention.garbage import collect
from orchestrator.retention.taint_removal import tainted_files
from orchestrator.stage import StageSpec

if TYPE_CHECKING:
    from data_pipelines.provenance.questions import Questions
    from stages.provenance.takedown import Draft

MAX_LISTED = 20
OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.group("takedown")
def takedown_command() -> None:
    """Take samples out of datasets, tokens and models, and prove it: plan, then apply, run, gc, receipt."""


@takedown_command.command("plan")
@question_options
@click.option("--id", "takedown_id", help="Its name in plans and tags. Default: the date and time.")
@click.option("--note", default="", help="Why, for the record; no personal data.")
@click.option("-o", "--out", type=OUTPUT, help="File to apply later. Default: ID.takedown.json.")
@place_options
@json_option
def plan_takedown(
    questions: "Questions",
    takedown_id: str | None,
    note: str,
    out: Path | None,
    places: Places,
    as_json: bool,
) -> None:
    """Say what must be deleted and run again, and what that costs. Changes nothing.

    WHAT is as for `illume trace`. Everything in the store is searched, whichever run made it.
    """
    from stages.provenance.takedown import draft_takedown

    takedown_id = takedown_id or f"takedown-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    with open_workspace(places) as workspace:
        if any(one.id == takedown_id for one in read_takedowns(workspace.store)):
            raise RecipeError(f"takedown {takedown_id!r} took effect already; give another --id")
        draft = draft_takedown(workspace, stage_kinds(), questions, takedown_id=takedown_id, note=note)
    file = out or Path(f"{takedown_id}.takedown.json")
    record = {"state": draft.state, "takedown": takedown_to_json(draft.takedown)}
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        reruns = [
            {"recipe": plan.recipe, "stages": [stage.id for stage in plan.to_run], **_cost(plan)}
            for plan in draft.reruns
        ]
        found = {name: [to_json(vars(match)) for match in matches] for name, matches in draft.matches.items()}
        told = {**record, "matches": found, "reruns": reruns, "unanswered": draft.unanswered,
                "untraceable": draft.untraceable}  # fmt: skip
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo(draft_text(draft))
        click.echo(f"\nnothing was changed; let it take effect with: illume takedown apply {file}")


@takedown_command.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--delete", is_flag=True, help="Also delete the files now; else `illume gc --delete` does.")
@place_options
def apply_takedown(file: Path, delete: bool, places: Places) -> None:
    """Let the takedown in FILE take effect: nothing of it comes in again, and what holds it is given up."""
    from stages.provenance.takedown import store_state

    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        takedown = takedown_from_json(record["takedown"], str(file))
        state = str(record["state"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{file}: not the file of a takedown ({error!r}); make one with `takedown plan`") from error
    with open_workspace(places) as workspace:
        begun = any(one.id == takedown.id for one in read_takedowns(workspace.store))
        if not begun and state != store_state(workspace):
            raise RecipeError(
                f"{file}: the store has changed since this was drawn up, so it may not name everything; "
                "draw it up again with `illume takedown plan`"
            )
        workspace.take_down(takedown)
        given_up = sum(not one.is_kept for one in takedown.tainted)
        click.echo(
            f"{takedown.id} took effect: {len(takedown.shards)} shards and {given_up} artifacts given up, "
            f"{len(takedown.tainted) - given_up} models marked"
        )
        garbage = tainted_files(workspace.artifacts, [takedown], is_live=workspace.is_live)
        if delete:
            collected = collect(workspace.store, garbage, is_live=workspace.is_live)
            click.echo(f"deleted {collected.items} folders, {bytes_text(collected.bytes)}")
        elif garbage:
            click.echo(f"{len(garbage)} folders are still there; `illume gc --delete` deletes them")
    click.echo("next: `illume run` with each recipe, then `illume takedown receipt`")


@takedown_command.command("receipt")
@click.argument("takedown_id", metavar="ID")
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ed25519 key (PEM) to sign.")
@click.option("-o", "--out", type=OUTPUT, help="Where to write the statement. Default: print it.")
@place_options
def receipt_of_takedown(takedown_id: str, key: Path | None, out: Path | None, places: Places) -> int:
    """Search the store again and say what became of everything, as an in-toto statement.

    Ends with 1 while something is still to do.
    """
    from stages.provenance.receipt import make_receipt

    with open_workspace(places) as workspace:
        receipt = make_receipt(workspace, stage_kinds(), find_takedown(workspace.store, takedown_id))
    said = receipt.statement()
    text = json.dumps(signed(said, key) if key else said, indent=1)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{'signed ' if key else ''}receipt: {out}")
    for point in receipt.open_points:
        click.echo(f"open: {point}", err=True)
    if not receipt.open_points:
        click.echo(f"{takedown_id} is complete", err=True)
    return 1 if receipt.open_points else 0


@takedown_command.command("list")
@place_options
@json_option
def list_takedowns(places: Places, as_json: bool) -> None:
    """The takedowns that took effect, oldest first."""
    with open_workspace(places) as workspace:
        known = read_takedowns(workspace.store)
    if as_json:
        click.echo(json.dumps([takedown_to_json(one) for one in known], indent=1))
        return
    for one in known:
        click.echo(f"{one.id}  {one.created[:19]}  {len(one.tainted)} tainted artifacts  {one.note}")


def draft_text(draft: "Draft") -> str:
    """For a terminal."""
    takedown = draft.takedown
    num_kept = sum(match.verdict == "keep" for matches in draft.matches.values() for match in matches)
    num_rows = sum(map(len, draft.matches.values()))
    lines = [f"{takedown.id}: {num_rows} rows in {len(draft.matches)} datasets, {num_kept} of them kept samples"]
    lines += [f"  {name}: {len(matches)} rows" for name, matches in draft.matches.items() if matches]
    lines += _section("found nowhere (forbidden from now on all the same)", draft.unanswered)
    shards = [f"{kind}: {holding} of {total} shards" for kind, (holding, total) in draft.shards_by_kind.items()]
    lines += _section("shards that hold it, which go", shards)
    for title, is_kept in (("artifacts that go", False), ("models that stay, marked, and are used no more", True)):
        chosen = [one for one in takedown.tainted if one.is_kept == is_kept]
        lines += _section(title, [_artifact_text(one) for one in chosen])
    lines += _section("shown to be clean, which stay", draft.cleared)
    checkpoints = [f"{name}: step {step}" for name, step in draft.clean_checkpoints.items()]
    lines += _section("newest clean checkpoints of what saw it", checkpoints)
    for plan in draft.reruns:
        cost = _cost(plan)
        known = f"about {duration_text(cost['seconds'])}, {cost['gpu_hours']:.1f} GPU hours"
        untimed = f" and {cost['untimed']:.0f} stages never timed" if cost["untimed"] else ""
        told = [f"{stage.id}: {'; '.join(map(str, stage.reasons))}" for stage in plan.to_run]
        lines += _section(f"to run again in recipe {plan.recipe!r} ({known}{untimed})", told)
    lines += _section("cannot be traced", draft.untraceable)
    return "\n".join(lines + _section("outside the store, for you to delete", takedown.outside))


def _artifact_text(one: TaintedArtifact) -> str:
    return f"{one.stage_id} ({one.kind} {one.fingerprint[:12]}, {bytes_text(one.bytes)}): {one.why}"


def _section(title: str, entries: "list[str] | tuple[str, ...]") -> list[str]:
    if not entries:
        return []
    more = [f"  and {len(entries) - MAX_LISTED} more"] if len(entries) > MAX_LISTED else []
    return [f"{title}:", *(f"  {entry}" for entry in entries[:MAX_LISTED]), *more]


def _cost(plan: Plan) -> dict[str, float]:
    """What running the plan takes, as far as its stages were ever timed."""
    known = [stage for stage in plan.to_run if stage.estimate_s is not None]
    return {
        "seconds": sum(stage.estimate_s or 0.0 for stage in known),
        "gpu_hours": sum((stage.estimate_s or 0.0) / 3600 * _gpus(stage.spec) for stage in known),
        "untimed": float(len(plan.to_run) - len(known)),
    }


def _gpus(spec: StageSpec) -> float:
    return spec.resources.gpus * spec.resources.workers
