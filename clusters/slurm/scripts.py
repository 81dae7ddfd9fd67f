"""The batch scripts of one job: the stage with its Ray, and a job array of the nodes that may come later."""

import math
import shlex
from pathlib import Path

import jinja2

from clusters.allocation import AUTOSCALES_VARIABLE, NODES_VARIABLE, Allocation, allocate
from clusters.grace import with_grace
from clusters.slurm.config import SlurmMachine, SlurmProfile
from orchestrator.cluster.jobs import JobSize

NODES_ENDING = "-nodes"  # of the name of a job's array
_HEAD_CPUS = 4  # of a node of its own for the stage driver and the head of Ray, if it has as many
_OBJECT_STORE_BYTES = 300_000_000  # it carries records and metrics, not data


def batch_scripts(
    profile: SlurmProfile, size: JobSize, *, job_id: str, run_id: str, arguments: str, folder: Path
) -> tuple[str, str]:
    """The script of the job, and that of its array; "" if all nodes come together.

    Raises: PrecheckError: no machine type holds a worker.
    """
    allocation = allocate(profile.machines, size)
    together = _nodes_together(allocation, size)
    given = {
        "job_id": job_id,
        "run_id": run_id,
        "arguments": arguments,
        "profile": profile,
        "allocation": allocation,
        "together": together,
        "later": allocation.nodes - together,
        "head": _head(profile),
        "environment": with_grace(profile.environment, profile.stop_grace_s),
        "folder": str(folder),
        "mounts": ",".join(f"{path}:{path}" for path in (profile.folder, *profile.container_mounts)),
        "inside": _inside(profile, allocation),
        "object_store_bytes": _OBJECT_STORE_BYTES,
        "nodes_variable": NODES_VARIABLE,
        "autoscales_variable": AUTOSCALES_VARIABLE,
        "nodes_ending": NODES_ENDING,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{%#",  # "{#" is bash's
        autoescape=False,
    )
    environment.filters["quote"] = shlex.quote
    scripts = [environment.get_template(name).render(given) for name in ("job.sbatch.j2", "nodes.sbatch.j2")]
    return scripts[0], scripts[1] if together < allocation.nodes else ""


def _nodes_together(allocation: Allocation[SlurmMachine], size: JobSize) -> int:
    """How many nodes a job begins with: those of the fewest workers of its stage, where the others may come later."""
    if not (allocation.machine.array and size.min_workers):
        return allocation.nodes
    return math.ceil(size.min_workers / allocation.workers)


def _head(profile: SlurmProfile) -> Allocation[SlurmMachine] | None:
    if not profile.head:
        return None
    machine = profile.machines[profile.head]
    cpus = min(int(machine.cpus), _HEAD_CPUS)
    return Allocation(name=profile.head, machine=machine, nodes=1, workers=0, cpus=cpus, gpus=0, memory_gib=0)


def _inside(profile: SlurmProfile, allocation: Allocation[SlurmMachine]) -> str:
    """The words before a program that Apptainer starts in the container; pyxis has options of srun instead."""
    if not profile.container or profile.container_runtime != "apptainer":
        return ""
    words = ["apptainer", "exec", *(["--nv"] if allocation.gpus else [])]
    return f'{shlex.join(words)} --bind "$mounts" {shlex.quote(profile.container)} '
