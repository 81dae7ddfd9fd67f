"""`illume takedown plan | apply | receipt | list`: removes samples from data and models, with a proof."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.artifacts.restarts import has_restart
from orchestrator.artifacts.takedowns import (
    TaintedArtifact,
    find_takedown,
    read_takedowns,
    takedown_from_json,
    takedown_to_json,
)
from orchestrator.commands.shared.formatting import bytes_text, duration_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    reason_option,
    stage_kinds,
)
from orchestrator.commands.shared.questions import question_options
from orchestrator.commands.shared.takedown_pages import write_plan_page, write_receipt_page
from orchestrator.documents.typed_json import JSONObject, parse_record
from orchestrator.errors import CorruptArtifactError, RecipeError
from orchestrator.identity import to_json
from orchestrator.planning.plan import Plan
from orchestrator.reports.attestation import sign
from orchestrator.retention.failed_output import delete_failed, stale_failed
from orchestrator.retention.garbage import delete_garbage
from orchestrator.retention.old_versions import OLD_VERSIONS, find_old_versions, keeps_versions
from orchestrator.retention.taint_removal import tainted_files, tainted_folders
from orchestrator.stage import StageSpec

if TYPE_CHECKING:
    from data_pipelines.provenance.questions import Questions
    from stages.provenance.receipt import Receipt
    from stages.provenance.takedown import TakedownPlan

MAX_LISTED = 20
DUE_DAYS = 30
OUTPUT = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, kw_only=True)
class _TakedownFile:
    """What `apply` reads of the file that `plan` wrote."""

    takedown: JSONObject
    state: str  # of the store when it was planned


@click.group("takedown")
def takedown_command() -> None:
    """Remove samples from datasets, tokens and models, and prove it: plan, then apply, run, gc, receipt."""


@takedown_command.command(
    "plan",
    epilog=examples("takedown plan picture.jpg --id request-17", "takedown plan list.csv --note 'by the photographer'"),
)
@question_options
@click.option("--id", "takedown_id", help="Name in plans and tags. Default: the date and time.")
@click.option("--note", default="", help="Reason, stored in the record; no personal data.")
@click.option(
    "--due",
    type=click.DateTime(["%Y-%m-%d"]),
    help=f"Day by which all of it must be done. Default: in {DUE_DAYS} days, the month that the GDPR gives.",
)
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Make trainings again from step 0. Default: from their newest checkpoint that saw none of it, if one is kept.",
)
@click.option("-o", "--out", type=OUTPUT, help="File to apply later. Default: ID.takedown.json.")
@click.option("--page", type=OUTPUT, help="Where to write a page with the images that would go, grouped by why.")
@location_options
@plugin_option
@json_option
def plan_takedown(
    questions: "Questions",
    takedown_id: str | None,
    note: str,
    due: datetime | None,
    from_scratch: bool,
    out: Path | None,
    page: Path | None,
    locations: Locations,
    as_json: bool,
) -> None:
    """Show what must be deleted and run again, and what that costs. Changes nothing.

    WHAT is as for `illume trace`. Everything in the store is searched, whichever run made it.
    """
    from stages.provenance.takedown import make_takedown_plan

    takedown_id = takedown_id or f"takedown-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    with open_workspace(locations) as workspace:
        if any(known.id == takedown_id for known in read_takedowns(workspace.store)):
            raise RecipeError(f"takedown {takedown_id!r} was already applied; give another --id")
        day = (due or datetime.now(UTC) + timedelta(days=DUE_DAYS)).date().isoformat()
        takedown_plan = make_takedown_plan(
            workspace,
            stage_kinds(),
            questions,
            takedown_id=takedown_id,
            note=note,
            due=day,
            restart=not from_scratch,
        )
        if page:
            write_plan_page(workspace, stage_kinds(), takedown_plan, page)
    file = out or Path(f"{takedown_id}.takedown.json")
    record = {"state": takedown_plan.state, "takedown": takedown_to_json(takedown_plan.takedown)}
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        reruns = [
            {"recipe": plan.recipe, "stages": [stage.id for stage in plan.to_run], **_cost(plan)}
            for plan in takedown_plan.reruns
        ]
        found = {name: [to_json(vars(match)) for match in matches] for name, matches in takedown_plan.matches.items()}
        report = {**record, "matches": found, "reruns": reruns, "unanswered": takedown_plan.unanswered,
                "untraceable": takedown_plan.untraceable}  # fmt: skip
        echo_json("takedown plan", report)
    else:
        click.echo(takedown_plan_text(takedown_plan))
        if page:
            click.echo(f"page with images: {page}")
        click.echo(f"\nnothing was changed; apply it with: illume takedown apply {file}")


@takedown_command.command(
    "apply",
    epilog=examples("takedown apply request-17.takedown.json", "takedown apply request-17.takedown.json --delete"),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--delete", is_flag=True, help="Also delete the files now; else `illume gc --delete` does.")
@location_options
@reason_option
@json_option
def apply_takedown(file: Path, delete: bool, locations: Locations, as_json: bool) -> None:
    """Apply the takedown in FILE: its samples are not ingested again, artifacts that contain them are retracted."""
    from stages.provenance.restarts import record_exposures
    from stages.provenance.takedown import store_state

    try:
        record = parse_record(_TakedownFile, file.read_bytes(), str(file))
        takedown, state = takedown_from_json(record.takedown, str(file)), record.state
    except CorruptArtifactError as error:
        raise RecipeError(f"{error}; make the file with `illume takedown plan`") from error
    with open_workspace(locations, changes=True) as workspace:
        is_applied = any(known.id == takedown.id for known in read_takedowns(workspace.store))
        are_kept = all(has_restart(workspace.store, restart) for restart in takedown.restarts)
        if not is_applied and (state != store_state(workspace) or not are_kept):
            raise RecipeError(
                f"{file}: the store has changed since this was planned, so it may be incomplete; "
                "plan it again with `illume takedown plan`"
            )
        going = {artifact.fingerprint for artifact in takedown.tainted if not artifact.is_kept}
        record_exposures(workspace, stage_kinds(), going)
        workspace.take_down(takedown)
        num_retracted = sum(not artifact.is_kept for artifact in takedown.tainted)
        delete_failed(stale_failed(workspace.artifacts.cache, now_s=time.time(), older_than_s=0.0))
        garbage = tainted_files(workspace.artifacts, [takedown], is_live=workspace.is_live)
        deleted, is_versioned = None, keeps_versions(workspace.store)
        if delete:
            deleted = delete_garbage(workspace.store, garbage, is_live=workspace.is_live, even_in_use=True)
        old = find_old_versions(workspace.store, tainted_folders(takedown))
    if as_json:
        counts = {"shards": len(takedown.shards), "artifacts": num_retracted}
        left = len(garbage) if deleted is None else len(deleted.kept)
        report = {
            "id": takedown.id,
            "retracted": counts,
            "models_marked": len(takedown.tainted) - num_retracted,
            "deleted": None if deleted is None else {"folders": deleted.items, "bytes": deleted.bytes},
            "folders_left": left,
            "old_versions_kept": is_versioned,
            "old_versions": None if old.unknown else {"objects": len(old.versions), "bytes": old.bytes},
        }
        echo_json("takedown apply", report)
        return
    click.echo(
        f"{takedown.id} is applied: {len(takedown.shards)} shards and {num_retracted} artifacts retracted, "
        f"{len(takedown.tainted) - num_retracted} models marked"
    )
    if deleted is not None:
        click.echo(f"deleted {deleted.items} folders, {bytes_text(deleted.bytes)}")
    elif garbage:
        click.echo(f"{len(garbage)} folders are still there; `illume gc --delete` deletes them")
    if is_versioned:
        click.echo(OLD_VERSIONS)
    if old.versions:
        found = f"{len(old.versions)} old versions of it, {bytes_text(old.bytes)}"
        click.echo(f"the bucket has {found}; `illume takedown receipt {takedown.id}` lists them")
    click.echo("next: `illume run` with each recipe, then `illume takedown receipt`")


@takedown_command.command(
    "receipt",
    epilog=examples("takedown receipt request-17", "takedown receipt request-17 --key key.pem -o receipt.json"),
)
@click.argument("takedown_id", metavar="ID")
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ed25519 key (PEM) to sign.")
@click.option("-o", "--out", type=OUTPUT, help="Where to write the statement. Default: print it.")
@click.option("--page", type=OUTPUT, help="Where to write a page for the person who asked.")
@location_options
@plugin_option
def receipt_of_takedown(
    takedown_id: str, key: Path | None, out: Path | None, page: Path | None, locations: Locations
) -> int:
    """Search the store again and report the state of every affected item, as an in-toto statement.

    Exits with 1 while something remains to be done.
    """
    from stages.provenance.receipt import make_receipt

    with open_workspace(locations) as workspace:
        receipt = make_receipt(workspace, stage_kinds(), find_takedown(workspace.store, takedown_id))
    statement = receipt.statement()
    text = json.dumps(sign(statement, key) if key else statement, indent=1)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{'signed ' if key else ''}receipt: {out}")
    if page:
        where = f"{out}{', signed' if key else ''}" if out else f"`illume takedown receipt {takedown_id}` prints it"
        write_receipt_page(receipt, page, statement=where)
        click.echo(f"page: {page}", err=out is None)
    for point in receipt.open_points:
        click.echo(f"open: {point}", err=True)
    if not receipt.open_points:
        click.echo(f"{takedown_id} is complete", err=True)
    return 1 if receipt.open_points else 0


@takedown_command.command("list", epilog=examples("takedown list", "takedown list --json"))
@location_options
@plugin_option
@json_option
def list_takedowns(locations: Locations, as_json: bool) -> None:
    """List the applied takedowns, oldest first: who, when, note, what is still to do, and until when.

    What is to do is told from records; `receipt` searches the whole store again.
    """
    from stages.provenance.receipt import make_receipt

    with open_workspace(locations) as workspace:
        known = read_takedowns(workspace.store)
        receipts = [make_receipt(workspace, stage_kinds(), takedown, search=False) for takedown in known]
    if as_json:
        listed = [
            {**takedown_to_json(receipt.takedown), "open": receipt.open_points, "complete": not receipt.open_points}
            for receipt in receipts
        ]
        echo_json("takedown list", {"takedowns": listed})
        return
    today = datetime.now(UTC).date().isoformat()
    for receipt in receipts:
        click.echo(receipt_line(receipt, today=today))


def receipt_line(receipt: "Receipt", *, today: str) -> str:
    """A takedown in one line. `today`: ISO 8601."""
    takedown, num_open = receipt.takedown, len(receipt.open_points)
    state = f"{num_open} to do: {'; '.join(receipt.open_points)}" if num_open else "complete"
    due = f"due {takedown.due}" if takedown.due else "no day given"
    late = ", LATE" if num_open and takedown.due and takedown.due < today else ""
    parts = [
        takedown.signature.removeprefix("taken down by "),
        f"{len(takedown.tainted)} tainted artifacts",
        takedown.note or "no note",
        f"{due}{late}",
        state,
    ]
    return "  ".join(parts)


def takedown_plan_text(takedown_plan: "TakedownPlan") -> str:
    """The plan as text for a terminal."""
    takedown = takedown_plan.takedown
    num_kept = sum(match.verdict == "keep" for matches in takedown_plan.matches.values() for match in matches)
    num_rows = sum(map(len, takedown_plan.matches.values()))
    lines = [
        f"{takedown.id}: {num_rows} rows in {len(takedown_plan.matches)} datasets, {num_kept} of them kept samples"
    ]
    lines += [f"  {name}: {len(matches)} rows" for name, matches in takedown_plan.matches.items() if matches]
    lines += _section("not found (forbidden from now on nevertheless)", takedown_plan.unanswered)
    shards = [f"{kind}: {holding} of {total} shards" for kind, (holding, total) in takedown_plan.shards_by_kind.items()]
    lines += _section("shards that contain it, to be deleted", shards)
    for title, is_kept in (
        ("artifacts to be deleted", False),
        ("models that are kept and marked, and not used any more", True),
    ):
        chosen = [artifact for artifact in takedown.tainted if artifact.is_kept == is_kept]
        lines += _section(title, [_artifact_text(artifact) for artifact in chosen])
    lines += _section("shown to be clean, kept", takedown_plan.cleared)
    checkpoints = [f"{name}: step {step}" for name, step in takedown_plan.clean_checkpoints.items()]
    use = "where trainings begin again" if takedown.restarts else "not used"
    lines += _section(f"newest clean checkpoints, {use}", checkpoints)
    for plan in takedown_plan.reruns:
        cost = _cost(plan)
        cost_text = f"about {duration_text(cost['seconds'])}, {cost['gpu_hours']:.1f} GPU hours"
        untimed = f" and {cost['untimed']:.0f} stages never timed" if cost["untimed"] else ""
        reruns = [f"{stage.id}: {'; '.join(map(str, stage.reasons))}" for stage in plan.to_run]
        lines += _section(f"to run again in recipe {plan.recipe!r} ({cost_text}{untimed})", reruns)
    lines += _section("cannot be traced", takedown_plan.untraceable)
    return "\n".join(lines + _section("outside the store, for you to delete", takedown.outside))


def _artifact_text(artifact: TaintedArtifact) -> str:
    identity = f"{artifact.kind} {artifact.fingerprint[:12]}"
    return f"{artifact.stage_id} ({identity}, {bytes_text(artifact.bytes)}): {artifact.why}"


def _section(title: str, entries: "list[str] | tuple[str, ...]") -> list[str]:
    if not entries:
        return []
    more = [f"  and {len(entries) - MAX_LISTED} more"] if len(entries) > MAX_LISTED else []
    return [f"{title}:", *(f"  {entry}" for entry in entries[:MAX_LISTED]), *more]


def _cost(plan: Plan) -> dict[str, float]:
    """Time and GPU hours of running the plan, from the stages with a known duration; `untimed` counts the others."""
    known = [stage for stage in plan.to_run if stage.estimate_s is not None]
    return {
        "seconds": sum(stage.estimate_s or 0.0 for stage in known),
        "gpu_hours": sum((stage.estimate_s or 0.0) / 3600 * _gpus(stage.spec) for stage in known),
        "untimed": float(len(plan.to_run) - len(known)),
    }


def _gpus(spec: StageSpec) -> float:
    return spec.resources.gpus * spec.resources.workers
