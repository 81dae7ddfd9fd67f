"""`illume doctor`: checks that everything a run needs is available; one line for each check, with advice."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil

from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.options import Locations, json_option, location_options, open_workspace
from orchestrator.errors import OrchestratorError
from orchestrator.history import lease_owners as owners
from orchestrator.history.events import RunState
from orchestrator.history.run_status import list_runs
from orchestrator.sinks.outbox import deliveries
from orchestrator.store.store import probe
from orchestrator.workspace import Workspace, workspace_root

MIN_PYTHON = (3, 11)
MIN_FREE_DISK_BYTES = 10 * 2**30  # a store and Ray's files for the quick start, with room to spare
MIN_FREE_MEMORY_BYTES = 4 * 2**30
MAX_RUNS = 10_000
PACKAGES: Mapping[str, str] = {  # package -> oldest supported version
    "ray": "2.50",
    "torch": "2.9",
    "transformers": "5.0",
    "diffusers": "0.35",
    "mlflow": "3.0",
    "pyarrow": "20.0",
    "obstore": "0.8",
    "sqlalchemy": "2.0",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    name: str
    is_ok: bool
    found: str
    advice: str = ""  # what to do if it is not ok


@click.command("doctor")
@location_options
@json_option
def doctor_command(locations: Locations, as_json: bool) -> int:
    """Check this machine, the store, the database and the tracker. Ends with 1 if there is a problem."""
    findings = [*_check_machine(), *_check_locations(locations)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(finding_text(finding))
    return 0 if all(finding.is_ok for finding in findings) else 1


def finding_text(finding: Finding) -> str:
    mark = click.style("ok     ", fg="green") if finding.is_ok else click.style("problem", fg="red")
    advice = "" if finding.is_ok else f"; {finding.advice}"
    return f"{mark}  {finding.name}: {finding.found}{advice}"


def _check_machine() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding(
        name="python", is_ok=sys.version_info >= MIN_PYTHON, found=python, advice="install Python 3.11 or newer"
    )
    for package, oldest in PACKAGES.items():
        yield package_finding(package, oldest)
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


def package_finding(package: str, oldest: str) -> Finding:
    """Whether a package is installed in a supported version, without importing it."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=package, is_ok=False, found="not installed", advice="pip install -c constraints.txt -e .")
    is_ok = _numbers(version) >= _numbers(oldest)
    return Finding(name=package, is_ok=is_ok, found=version, advice=f"install {oldest} or newer")


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


def _check_leases(workspace: Workspace) -> Iterator[Finding]:
    """Runs in a running state whose lease no living driver holds."""
    for run in list_runs(workspace.database, limit=MAX_RUNS):
        if run.state in (RunState.RUNNING, RunState.STOPPING):
            holder = workspace.leases.holder(f"run:{run.run_id}")
            if holder is None or owners.is_gone(holder.owner):
                found = f"{run.state.lower()}, but its driver is gone"
                advice = f"continue it with `illume resume {run.run_id}`"
                yield Finding(name=f"run {run.run_id}", is_ok=False, found=found, advice=advice)


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
