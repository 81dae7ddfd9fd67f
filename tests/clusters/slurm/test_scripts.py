"""What the batch scripts of a job say. Real ones run in `tests/chaos/test_slurm.py`."""

import socket
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster.end_signals import GRACE_VARIABLE
from tests.clusters.slurm import test_jobs
from tests.clusters.slurm.test_jobs import JOB, Played, elastic

slurm = test_jobs.slurm


def test_the_script_is_valid_and_quotes_what_it_is_given(slurm: Played) -> None:
    script = slurm.jobs.preview(JOB, "stage-driver r1 'two words'", {"run": "r1"})
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.stderr == ""
    lines = script.splitlines()
    for option in (
        f"--job-name={JOB}",
        "--nodes=2",
        "--gres=gpu:h100:4",
        "--partition=gpu",
        "--account=team",
        "--time=600",
        "--signal=B:USR1@120",
        "--no-requeue",
    ):
        assert f"#SBATCH {option}" in lines
    assert """export NAME='it'"'"'s; rm -rf /'""" in lines
    assert ". '/opt/my env/activate' || finish 75 \"setup failed\"" in lines
    assert not any(line.startswith("#SBATCH --qos") for line in lines)
    assert GRACE_VARIABLE not in script
    patient = replace(slurm.jobs, profile=replace(slurm.jobs.profile, stop_grace_s=90.0))
    assert f"export {GRACE_VARIABLE}=90" in patient.preview(JOB, "stage-driver", {"run": "r1"}).splitlines()


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("pyxis", "--container-image='/images/it works.sqsh' --container-name=\"illume-$SLURM_JOB_ID\""),
        ("apptainer", "apptainer exec --nv --bind \"$mounts\" '/images/it works.sqsh' bash -c"),
    ],
)
def test_a_container_sees_the_folders_that_it_needs(slurm: Played, runtime: str, expected: str) -> None:
    changes: dict[str, Any] = {
        "container": "/images/it works.sqsh",
        "container_runtime": runtime,
        "container_mounts": ("/data",),
    }
    script = elastic(slurm, **changes).preview(JOB, "stage-driver", {"run": "r1"})
    folder = slurm.jobs.profile.folder
    assert f'mounts={folder}:{folder},/data:/data",$tmp:$tmp"' in script
    assert expected in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.stderr == ""


def test_a_port_that_somebody_listens_on_is_passed_over(slurm: Played) -> None:
    """Another Ray answers there: the head would fail, and the stage driver would ask the wrong one for work."""
    script = slurm.jobs.preview(JOB, "stage-driver", {"run": "r1"})
    function = script[script.index("free_port() {") : script.index("port=$(free_port 0)")]

    def ports(job_id: int) -> list[int]:
        words = f"SLURM_JOB_ID={job_id}; address=127.0.0.1; head=n1\n{function}\nfree_port 0; free_port 1"
        done = subprocess.run(["bash", "-uc", words], capture_output=True, text=True, check=True)
        return [int(port) for port in done.stdout.split()]

    first = next(found for job_id in range(3000, 6000) if (found := ports(job_id))[0] == 20000 + 2 * job_id % 12000)
    with socket.create_server(("127.0.0.1", first[0])):
        assert ports((first[0] - 20000) // 2) == [first[0] + 202, first[1]]
    assert all(20000 <= port < 32768 for job_id in (1, 5999, 6000, 67_000_000) for port in ports(job_id))
