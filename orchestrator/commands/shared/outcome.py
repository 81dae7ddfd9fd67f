"""What came out of a run, in lines, and the commands that go on from there; shown by `show` and when a run ends."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.commands.shared.formatting import short
from orchestrator.commands.shared.options import known_recipes
from orchestrator.commands.shared.targets import Target, planned_stages
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import TAKEN_DOWN, RunSummary, StageStatus, newest_run
from orchestrator.reports.run_outputs import run_outputs
from orchestrator.reports.run_summary import StageSummary, stage_summaries
from orchestrator.reports.taken_down import with_takedowns
from orchestrator.stage import StageKind
from orchestrator.store.layout import ARTIFACTS
from orchestrator.workspace import Workspace

# artifact kind, without its version -> a command that looks at it
LOOKS: Mapping[str, str] = {
    "dataset": "illume audit {target}",
    "export": "illume generate 'a red circle' --run {run}",
}
ARTIFACT_FOLDER = re.compile(rf"\b{ARTIFACTS}/(?P<kind>[^/]+)/[0-9a-f]{{2}}/(?P<fingerprint>[0-9a-f]{{64}})\b")
FAILED_STATES = (AttemptState.FAILED, AttemptState.LOST, AttemptState.CANCELLED)


def summaries_of(workspace: Workspace, target: Target, kinds: Mapping[str, StageKind[Any]]) -> list[StageSummary]:
    """Summaries of the stages that the target names.

    Raises: RecipeError: the run's plan is not in the store.
    """
    planned = planned_stages(workspace.artifacts, target.run)
    wanted = [stage for stage in planned if target.stage_id in (None, stage["id"])]
    outputs = run_outputs(workspace.artifacts, workspace.database, target.run, wanted)
    status = with_takedowns(target.status, read_takedowns(workspace.store))
    found = stage_summaries(workspace.artifacts, status, outputs, kinds)
    return [summary for summary in found if target.stage_id in (None, summary.status.stage_id)]


def outcome_lines(summaries: Sequence[StageSummary]) -> list[str]:
    """Lines for each stage: what came out, what its artifact is called in short, and its warnings."""
    width = max((len(summary.status.stage_id) for summary in summaries), default=0)
    lines: list[str] = []
    for summary in summaries:
        text = summary.headline or state_text(summary.status)
        if summary.status.state == TAKEN_DOWN:
            text = summary.status.message
        elif summary.folder and summary.status.state != AttemptState.COMMITTED:
            text = f"{text} ({state_text(summary.status)})" if summary.headline else text
        lines.append(f"  {summary.status.stage_id:{width}}  {text}")
        if summary.folder:
            lines.append(f"  {'':{width}}  {short_folder(summary.folder)}")
            lines += [f"  {'':{width}}  warning: {warning}" for warning in summary.warnings]
    return lines


def next_commands(workspace: Workspace, target: Target, summaries: Sequence[StageSummary]) -> list[str]:
    """Command lines that go on from here, the most useful first."""
    run, name = target.run, _short_name(workspace, target.run)
    if any(summary.status.state == TAKEN_DOWN for summary in summaries):
        return ["illume takedown list", *([f"illume run {run.recipe}"] if run.recipe in known_recipes() else [])]
    looks = list(_looks(name, summaries))
    if run.state in (RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED):
        failed = [summary.status for summary in summaries if summary.status.state in FAILED_STATES]
        return [*(f"illume logs {name}:{stage.stage_id}" for stage in failed[:1]), f"illume resume {name}", *looks]
    if run.state is not RunState.SUCCEEDED:
        return [f"illume status -f {name}"]
    if target.stage_id is not None:
        return [*looks, f"illume explain {name}:{target.stage_id}", f"illume lineage {name}:{target.stage_id}"]
    last = [summary.status.stage_id for summary in summaries if summary.folder][-1:]
    shown = [
        command for stage_id in last for command in (f"illume show {name}:{stage_id}", f"illume path {name}:{stage_id}")
    ]
    return [*looks, *shown, f"illume du {name}"]


def short_folder(folder: str) -> str:
    """Of the folder of an artifact its kind and the start of its identity; `illume path` prints the whole."""
    match = ARTIFACT_FOLDER.search(folder)
    return f"{match['kind']} {short(match['fingerprint'])}" if match else shown_folder(folder)


def shown_folder(folder: str) -> str:
    """The folder as it is shortest from here: relative if it is below the working folder."""
    path = Path(folder)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else folder


def state_text(status: StageStatus) -> str:
    return status.state


def _short_name(workspace: Workspace, run: RunSummary) -> str:
    """The recipe's name if this is its newest run, as that is what it names; else the id."""
    newest = newest_run(workspace.database, recipe=run.recipe)
    return run.recipe if newest is not None and newest.run_id == run.run_id else run.run_id


def _looks(run: str, summaries: Sequence[StageSummary]) -> Iterator[str]:
    """The commands for what was made: one for each kind of artifact, at its last stage."""
    last = {summary.artifact_kind.partition("@")[0]: summary.status.stage_id for summary in summaries if summary.folder}
    for artifact_kind, command in LOOKS.items():
        if artifact_kind in last:
            yield command.format(target=f"{run}:{last[artifact_kind]}", run=run)
