"""`illume gc` and `illume pin`: what is deleted from the store, and what stays whatever its age."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import click

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.options import Places, json_option, open_workspace, place_options, stage_kinds
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.retention.garbage import DEFAULT_AGE_S, Garbage, collect, plan_collection
from orchestrator.retention.local_copies import delete_copies, stale_copies
from orchestrator.retention.pins import pin, pins, unpin
from orchestrator.retention.taint_removal import tainted_files
from orchestrator.retention.unneeded import Unneeded, give_up, unneeded_artifacts

MAX_LISTED = 50


@click.command("gc")
@click.option("--delete", is_flag=True, help="Delete what is listed.")
@click.option("--older-than-h", default=DEFAULT_AGE_S / 3600, show_default=True, help="Hours since it was touched.")
@click.option(
    "--unneeded-days",
    type=click.FloatRange(min=0),
    help="Also give up artifacts of this age that nobody needs: no newest run of a recipe, no pin, no model.",
)
@place_options
@json_option
def gc_command(delete: bool, older_than_h: float, unneeded_days: float | None, places: Places, as_json: bool) -> None:
    """List leftovers of attempts that can never be used again, and what was taken down; delete them with --delete.

    So go copies on this machine of what the store no longer has. Committed artifacts are touched only with
    --unneeded-days; `illume pin` keeps what must stay.
    """
    with open_workspace(places) as workspace:
        now_s, older_than_s = time.time(), older_than_h * 3600.0
        unneeded: list[Unneeded] = []
        if unneeded_days is not None:
            unneeded = unneeded_artifacts(
                workspace.artifacts,
                workspace.database,
                now_s=now_s,
                older_than_s=unneeded_days * 24 * 3600.0,
                is_registered=_is_registered,
            )
            if delete:
                reason = f"no run needs it, {unneeded_days:g} days old"
                unneeded = give_up(workspace.artifacts, workspace.database, unneeded, reason=reason)
        taken_down = tainted_files(workspace.artifacts, read_takedowns(workspace.store), is_live=workspace.is_live)
        garbage = plan_collection(workspace.store, now_s=now_s, is_live=workspace.is_live, older_than_s=older_than_s)
        garbage = list({item.key: item for item in (*taken_down, *garbage)}.values())
        collected = collect(workspace.store, garbage, is_live=workspace.is_live) if delete else None
        copies = stale_copies(
            workspace.store,
            workspace.artifacts.cache,
            now_s=now_s,
            is_live=workspace.is_live,
            older_than_s=older_than_s,
        )
        if delete:
            delete_copies(copies)
    if as_json:
        listed = [
            {"reason": item.reason, "key": item.key, "files": item.files, "bytes": item.bytes} for item in garbage
        ]
        told = {
            "unneeded": [asdict(one) for one in unneeded],
            "garbage": listed,
            "copies": [{"key": copy.key, "bytes": copy.bytes} for copy in copies],
            "collected": asdict(collected) if collected else None,
        }
        click.echo(json.dumps(told, indent=2))
        return
    for one in unneeded:
        click.echo(f"unneeded   {bytes_text(one.bytes):>10} {one.stage_kind} {one.fingerprint[:12]} ({one.kind})")
    _print_garbage(garbage)
    if copies:
        verb = "deleted" if delete else "can go"
        click.echo(f"on this machine: {verb}: {len(copies)} copies, {bytes_text(sum(copy.bytes for copy in copies))}")
    if collected is not None:
        given_up = f"gave up {len(unneeded)} artifacts, " if unneeded else ""
        click.echo(f"{given_up}deleted {collected.items} items, {bytes_text(collected.bytes)}")
        for key in collected.kept:
            click.echo(f"kept, because it is in use: {key}")
    elif garbage or unneeded or copies:
        click.echo("nothing was deleted; add --delete")


@click.command("pin")
@click.argument("target", required=False)
@click.option("--remove", is_flag=True, help="Let it go again.")
@place_options
def pin_command(target: str | None, remove: bool, places: Places) -> None:
    """Keep an artifact, and what it was made from, whatever `illume gc --unneeded-days` finds.

    TARGET is RUN:STAGE or the first digits of an identity; without one, what is pinned is listed.
    """
    with open_workspace(places) as workspace:
        if target is None:
            for stage_kind, fingerprint in pins(workspace.store):
                click.echo(f"{stage_kind} {fingerprint}")
            return
        manifest = find_artifact(workspace.artifacts, workspace.database, target).manifest
        change = unpin if remove else pin
        change(workspace.store, manifest.stage_kind, str(manifest.fingerprint))
        click.echo(f"{manifest.stage_kind} {manifest.fingerprint}: {'not pinned any more' if remove else 'pinned'}")


def _is_registered(stage_kind: str) -> bool:
    """Kinds that do not exist any more may have been models."""
    kind = stage_kinds().get(stage_kind)
    return kind is None or kind.model_version is not None


def _print_garbage(garbage: Sequence[Garbage]) -> None:
    for item in garbage[:MAX_LISTED]:
        click.echo(f"{item.reason:10} {bytes_text(item.bytes):>10} {item.key}")
    if len(garbage) > MAX_LISTED:
        click.echo(f"and {len(garbage) - MAX_LISTED} more")
    counts = Counter(item.reason for item in garbage)
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.most_common()) or "nothing"
    click.echo(f"can go: {reasons}; {bytes_text(sum(item.bytes for item in garbage))}")
