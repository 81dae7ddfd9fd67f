"""`illume doctor`: checks that everything a run needs is available; one line for each check, with advice."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
)
from orchestrator.errors import OrchestratorError
from orchestrator.history.events import RunState
from orchestrator.history.run_status import list_runs
from orchestrator.installation.extras import EXTRAS, install_command, is_installed
from orchestrator.installation.version import PACKAGE
from orchestrator.liveness.life_in_status import is_abandoned
from orchestrator.sinks.outbox import deliveries
from orchestrator.sinks.relocation import find_moves
from orchestrator.store.store import probe
from orchestrator.workspace import Workspace, workspace_root

MIN_FREE_DISK_BYTES = 10 * 2**30  # a store and Ray's files for the quick start, with room to spare
MIN_FREE_MEMORY_BYTES = 4 * 2**30
MAX_RUNS = 10_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    name: str
    is_ok: bool
    found: str
    advice: str = ""  # what to do if it is not ok


@click.command("doctor", epilog=examples("doctor", "doctor --store s3://bucket/prefix --json"))
@location_options
@json_option
def doctor_command(locations: Locations, as_json: bool) -> int:
    """Check this machine, the store, the database and the tracker. Ends with 1 if there is a problem."""
    findings = [*_check_machine(), *_check_locations(locations)]
    if as_json:
        echo_json("doctor", {"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(finding_text(finding))
    return 0 if all(finding.is_ok for finding in findings) else 1


def finding_text(finding: Finding) -> str:
    mark = click.style("ok     ", fg="green") if finding.is_ok else click.style("problem", fg="red")
    advice = "" if finding.is_ok else f"; {finding.advice}"
    return f"{mark}  {finding.name}: {finding.found}{advice}"


def _check_machine() -> Iterator[Finding]:
    yield python_finding(platform.python_version())
    for requirement in requirements():
        yield package_finding(requirement)
    for name, extra in EXTRAS.items():
        found = "installed" if is_installed(name) else f"not installed; {install_command(name)} if you need it"
        yield Finding(name=f"extra {name}", is_ok=True, found=f"{extra.purpose}: {found}")
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding(
        name="disk",
        is_ok=free >= MIN_FREE_DISK_BYTES,
        found=f"{bytes_text(free)} free in {Path.cwd()}",
        advice=f"make room for at least {bytes_text(MIN_FREE_DISK_BYTES)}, or work in another folder",
    )
    memory = psutil.virtual_memory()
    yield Finding(
        name="memory",
        is_ok=memory.available >= MIN_FREE_MEMORY_BYTES,
        found=f"{bytes_text(memory.available)} of {bytes_text(memory.total)} free, {psutil.cpu_count()} CPUs",
        advice=f"end other programs; the quick start needs {bytes_text(MIN_FREE_MEMORY_BYTES)}",
    )


def python_finding(found: str) -> Finding:
    """Whether a version of Python is among those that the package's metadata names."""
    supported = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    is_ok = SpecifierSet(supported).contains(found)
    return Finding(name="python", is_ok=is_ok, found=found, advice=f"make the environment with Python {supported}")


def requirements() -> list[Requirement]:
    """What the installed package declares to need on this machine, without extras."""
    declared = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or ()]
    return [need for need in declared if need.marker is None or need.marker.evaluate({"extra": ""})]


def package_finding(requirement: Requirement) -> Finding:
    """Whether a package is installed in a supported version, without importing it."""
    name = requirement.name
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, is_ok=False, found="not installed", advice=f"pip install '{requirement}'")
    is_ok = requirement.specifier.contains(version, prereleases=True)
    return Finding(name=name, is_ok=is_ok, found=version, advice=f"pip install '{requirement}'")


def _check_locations(locations: Locations) -> Iterator[Finding]:
    try:
        workspace = open_workspace(locations)
    except OrchestratorError as error:
        yield Finding(name="workspace", is_ok=False, found=str(error), advice="see the message")
        return
    with workspace:
        yield _workspace_finding(workspace)
        yield _finding("store", lambda: _probe_store(workspace), "choose another with --store")
        yield _finding("database", lambda: _count_runs(workspace), "see the message, or `illume index rebuild`")
        yield from _check_moves(workspace)
        yield from _check_deliveries(workspace)
        yield from _check_leases(workspace)


def _workspace_finding(workspace: Workspace) -> Finding:
    """Whether there is a workspace; if not, whether `illume run` could make one."""
    root = workspace_root()
    if workspace.has_index:
        return Finding(name="workspace", is_ok=True, found=str(workspace.root))
    can_make = os.access(next(folder for folder in (root, *root.parents) if folder.exists()), os.W_OK)
    found = f"none yet; `illume run` makes {root}" if can_make else f"none yet, and {root} cannot be written"
    return Finding(
        name="workspace", is_ok=can_make, found=found, advice="work in a folder of yours, or set ILLUME_HOME"
    )


def _finding(name: str, check: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(name=name, is_ok=True, found=check())
    except OrchestratorError as error:
        return Finding(name=name, is_ok=False, found=str(error), advice=advice)


def _probe_store(workspace: Workspace) -> str:
    if not workspace.has_index and workspace.store.local("") == workspace.root / "store":
        return "none yet"
    probe(workspace.store)
    return f"{workspace.store.url} refuses the second create of a key, as it must"


def _count_runs(workspace: Workspace) -> str:
    if not workspace.has_index:
        return "none yet"
    return f"{workspace.database.address}, {len(list_runs(workspace.database, limit=MAX_RUNS))} runs"


def _check_deliveries(workspace: Workspace) -> Iterator[Finding]:
    """Waiting events by sink, summed over runs. Delays lose nothing, so a sink fails only if it has a problem."""
    waiting: dict[str, int] = {}
    problems: dict[str, str] = {}
    for delivery in deliveries(workspace.database):
        waiting[delivery.sink] = waiting.get(delivery.sink, 0) + delivery.waiting
        problems[delivery.sink] = delivery.problem or problems.get(delivery.sink, "")
    for sink, number in waiting.items():
        found = f"{number} events wait" + (f", last problem: {problems[sink]}" if problems[sink] and number else "")
        is_ok = number == 0 or not problems[sink]
        yield Finding(name=sink, is_ok=is_ok, found=found, advice="start the server; the next run delivers them")


def _check_moves(workspace: Workspace) -> Iterator[Finding]:
    """Destinations of events that are at another place now, so that their addresses are old."""
    for move in find_moves(workspace.database, [sink.name for sink in workspace.sinks()]):
        found = f"{move.old} is gone, and {move.new} is there"
        yield Finding(
            name=f"moved {move.kind}", is_ok=False, found=found, advice="let addresses follow by `illume relocate`"
        )


def _check_leases(workspace: Workspace) -> Iterator[Finding]:
    """Runs in a running state whose lease no living driver holds."""
    for run in list_runs(workspace.database, limit=MAX_RUNS):
        if run.state in (RunState.RUNNING, RunState.STOPPING):
            life = workspace.liveness.run(run.run_id)
            if is_abandoned(run.state, life):
                found = f"{run.state}, but {life.describe()}"
                advice = f"continue it with `illume resume {run.run_id}`"
                yield Finding(name=f"run {run.run_id}", is_ok=False, found=found, advice=advice)
