"""`illume gc` and `illume pin`: deletes garbage from the store, and protects artifacts from deletion."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import click

from orchestrator.artifacts.restarts import awaited_restarts
from orchestrator.artifacts.takedowns import newest_takedown_s, read_takedowns
from orchestrator.commands.shared.completion import complete_target
from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.numbers import AT_LEAST_ZERO
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
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.history.changes import record_change
from orchestrator.retention.failed_output import KEPT_S, FailedOutput, delete_failed, stale_failed
from orchestrator.retention.garbage import DEFAULT_AGE_S, DeletionReport, Garbage, delete_garbage, find_garbage
from orchestrator.retention.holders import Holder, holders
from orchestrator.retention.leftovers import Leftovers
from orchestrator.retention.local_copies import LocalCopy, delete_copies, stale_copies
from orchestrator.retention.old_versions import OLD_VERSIONS, keeps_versions
from orchestrator.retention.pins import pin, pins, unpin
from orchestrator.retention.taint_removal import tainted_files
from orchestrator.retention.unfinished_uploads import abort_uploads, find_unfinished_uploads
from orchestrator.retention.unneeded import UnneededArtifact, retract_unneeded, unneeded_artifacts
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace

MAX_LISTED = 50
DAY_S = 24 * 3600.0


@click.command("gc", epilog=examples("gc", "gc --unneeded-days 30", "gc --unneeded-days 30 --delete"))
@click.option("--delete", is_flag=True, help="Delete what is listed.")
@click.option(
    "--older-than-h",
    type=AT_LEAST_ZERO,
    default=DEFAULT_AGE_S / 3600,
    show_default=True,
    help="Hours since the last change.",
)
@click.option(
    "--unneeded-days",
    type=AT_LEAST_ZERO,
    help="Also retract artifacts of this age that nothing needs: no newest run of a recipe, no pin, no model. And "
    "delete what runs that nobody continues have left: checkpoints, shards, plans, records of jobs.",
)
@location_options
@plugin_option
@reason_option
@json_option
def gc_command(
    delete: bool, older_than_h: float, unneeded_days: float | None, locations: Locations, as_json: bool
) -> None:
    """List leftovers of attempts that can never be used again, and what was taken down; delete them with --delete.

    Copies on this machine of what the store no longer has are treated alike, and what failed attempts found and kept to
    be looked at: after a week, with --unneeded-days after that time, and after a takedown at once. Committed artifacts
    are affected only with --unneeded-days; `illume pin` protects them.
    """
    from stages.provenance.restarts import record_exposures  # late: needs pyarrow

    with open_workspace(locations, changes=delete) as workspace:
        now_s, older_than_s = time.time(), older_than_h * 3600.0
        unneeded: list[UnneededArtifact] = []
        if unneeded_days is not None:
            unneeded = unneeded_artifacts(
                workspace.artifacts,
                workspace.liveness,
                now_s=now_s,
                older_than_s=unneeded_days * DAY_S,
                is_registered=_is_registered,
            )
            if delete:
                record_change(workspace.store, "gc", [f"{found.stage_kind} {found.fingerprint}" for found in unneeded])
                record_exposures(workspace, stage_kinds(), {found.fingerprint for found in unneeded})
                reason = f"no run needs it, {unneeded_days:g} days old"
                unneeded = retract_unneeded(workspace.artifacts, workspace.liveness, unneeded, reason=reason)
        takedowns, is_live = read_takedowns(workspace.store), workspace.is_live
        awaited = awaited_restarts(takedowns, (stored.manifest for stored in workspace.artifacts.all()))
        taken_down = tainted_files(workspace.artifacts, takedowns, is_live=is_live)
        garbage = find_garbage(
            workspace.store, now_s=now_s, is_live=is_live, older_than_s=older_than_s, awaited=awaited
        )
        keys = {item.key for item in taken_down}
        garbage = [item for item in garbage if item.key not in keys]
        collected = _delete(workspace, taken_down, garbage) if delete else None
        garbage = [*taken_down, *garbage]
        if unneeded_days is not None:  # after the deletion, which ends attempts that nobody continues
            leftovers = Leftovers(
                artifacts=workspace.artifacts, liveness=workspace.liveness, is_live=is_live, awaited=awaited
            )
            found = leftovers.find(now_s=now_s, older_than_s=unneeded_days * DAY_S)
            garbage += found
            if collected is not None:
                record_change(workspace.store, "gc", [item.key for item in found])
                collected = _sum(collected, leftovers.delete(found))
        copies = stale_copies(
            workspace.store,
            workspace.artifacts.cache,
            now_s=now_s,
            is_live=workspace.is_live,
            older_than_s=older_than_s,
        )
        uploads, collected = _collect_uploads(workspace, now_s - older_than_s, collected)
        garbage += uploads
        failed = stale_failed(
            workspace.artifacts.cache,
            now_s=now_s,
            older_than_s=KEPT_S if unneeded_days is None else unneeded_days * DAY_S,
            before_s=newest_takedown_s(workspace.store),
        )
        is_versioned = collected is not None and keeps_versions(workspace.store)
        if delete:
            copies = delete_copies(workspace.artifacts.cache, copies)
            failed = delete_failed(failed)
        held = holders(workspace.liveness, workspace.is_live)
    if as_json:
        _print_json(unneeded, garbage, [*copies, *failed], collected, held)
    else:
        _print_text(unneeded, garbage, [*copies, *failed], collected)
        _print_held(held)
        click.echo(OLD_VERSIONS if is_versioned else "", nl=is_versioned)


@click.command("pin", epilog=examples("pin # lists the pinned", "pin last:curated", "pin last:curated --remove"))
@click.argument("target", required=False, shell_complete=complete_target)
@click.option("--remove", is_flag=True, help="Remove the pin.")
@location_options
@reason_option
@json_option
def pin_command(target: str | None, remove: bool, locations: Locations, as_json: bool) -> None:
    """Protect an artifact, and what it was made from, from `illume gc --unneeded-days`.

    TARGET is RUN:STAGE or the first digits of an identity; without one, the pinned artifacts are listed.
    """
    with open_workspace(locations) as workspace:
        lines = []
        if target is not None:
            key = find_artifact(workspace.artifacts, workspace.database, target).manifest.key
            change = unpin if remove else pin
            record_change(workspace.store, "unpin" if remove else "pin", [str(key)])
            change(workspace.store, key)
            lines = [f"{key.stage_kind} {key.fingerprint}: {'no longer pinned' if remove else 'pinned'}"]
        pinned = pins(workspace.store) if as_json or target is None else []
    if as_json:
        entries = [{"stage_kind": key.stage_kind, "fingerprint": key.fingerprint} for key in pinned]
        echo_json("pin", {"pinned": entries})
        return
    for line in lines or map(str, pinned):
        click.echo(line)


def _delete(workspace: Workspace, taken_down: Sequence[Garbage], garbage: Sequence[Garbage]) -> DeletionReport:
    """What was taken down goes even if an attempt has it on record: it must not be used."""
    record_change(workspace.store, "gc", [item.key for item in (*taken_down, *garbage)])
    first = delete_garbage(workspace.store, taken_down, is_live=workspace.is_live, even_in_use=True)
    return _sum(first, delete_garbage(workspace.store, garbage, is_live=workspace.is_live))


def _collect_uploads(
    workspace: Workspace, before_s: float, collected: DeletionReport | None
) -> tuple[list[Garbage], DeletionReport | None]:
    """The uploads that nobody finishes; aborted, and added to what was collected, if anything is to be."""
    uploads = find_unfinished_uploads(workspace.store, before_s=before_s, is_live=workspace.is_live)
    if collected is not None:
        freed = abort_uploads(workspace.store, uploads)
        collected = _sum(collected, DeletionReport(items=len(uploads), bytes=freed, kept=()))
    return [Garbage(reason="upload", key=upload.key, files=0, bytes=upload.bytes) for upload in uploads], collected


def _sum(first: DeletionReport, second: DeletionReport) -> DeletionReport:
    return DeletionReport(
        items=first.items + second.items,
        bytes=first.bytes + second.bytes,
        kept=(*first.kept, *second.kept),
        retained=(*first.retained, *second.retained),
    )


def _is_registered(stage_kind: str) -> bool:
    """Whether the kind makes registered models; assumed for kinds that no longer exist."""
    kind = stage_kinds().get(stage_kind)
    return kind is None or kind.model_version is not None


def _print_garbage(garbage: Sequence[Garbage]) -> None:
    for item in garbage[:MAX_LISTED]:
        click.echo(f"{item.reason:10} {bytes_text(item.bytes):>10} {item.key}")
    if len(garbage) > MAX_LISTED:
        click.echo(f"and {len(garbage) - MAX_LISTED} more")
    counts = Counter(item.reason for item in garbage)
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.most_common()) or "nothing"
    click.echo(f"can be deleted: {reasons}; {bytes_text(sum(item.bytes for item in garbage))}")


def _print_json(
    unneeded: Sequence[UnneededArtifact],
    garbage: Sequence[Garbage],
    copies: Sequence[LocalCopy | FailedOutput],
    collected: DeletionReport | None,
    held: Sequence[Holder],
) -> None:
    listed = [{"reason": item.reason, "key": item.key, "files": item.files, "bytes": item.bytes} for item in garbage]
    report = {
        "unneeded": [asdict(artifact) for artifact in unneeded],
        "garbage": listed,
        "copies": [{"key": copy.key, "bytes": copy.bytes} for copy in copies],
        "collected": asdict(collected) if collected else None,
        "held": [_holder_to_json(holder) for holder in held],
    }
    echo_json("gc", report)


def _holder_to_json(holder: Holder) -> dict[str, object]:
    return {
        "attempt": holder.attempt,
        "run": holder.run_id,
        "stage_kind": holder.key.stage_kind,
        "fingerprint": holder.key.fingerprint,
        "state": holder.state,
        "shards": holder.shards,
        "artifacts": holder.artifacts,
        "since": iso_time(holder.since_s),
    }


def _print_held(held: Sequence[Holder]) -> None:
    for holder in held[:MAX_LISTED]:
        click.echo(
            f"held: {holder.shards:,} shards and {holder.artifacts} artifacts by attempt {holder.attempt} of run "
            f"{holder.run_id}, since {iso_time(holder.since_s)}: it {holder.sentence}"
        )
    if len(held) > MAX_LISTED:
        click.echo(f"held: by {len(held) - MAX_LISTED} more attempts")


def _print_text(
    unneeded: Sequence[UnneededArtifact],
    garbage: Sequence[Garbage],
    copies: Sequence[LocalCopy | FailedOutput],
    collected: DeletionReport | None,
) -> None:
    for artifact in unneeded:
        click.echo(
            f"unneeded   {bytes_text(artifact.bytes):>10} {artifact.stage_kind} {artifact.fingerprint[:12]} "
            f"({artifact.kind})"
        )
    _print_garbage(garbage)
    if copies:
        state = "can be deleted" if collected is None else "deleted"
        click.echo(f"on this machine: {state}: {len(copies)} copies, {bytes_text(sum(copy.bytes for copy in copies))}")
    if collected is not None:
        retracted = f"retracted {len(unneeded)} artifacts, " if unneeded else ""
        click.echo(f"{retracted}deleted {collected.items} items, {bytes_text(collected.bytes)}")
        for key in collected.kept:
            click.echo(f"kept, because it is in use: {key}")
        for key in collected.retained[:MAX_LISTED]:
            click.echo(f"kept by the bucket until its retention ends: {key}")
    elif garbage or unneeded or copies:
        click.echo("nothing was deleted; add --delete")
