"""What a cluster cannot do is said by `run` and by `submit` before anything starts: one message, exit code 2, no run.

What only a job finds out (no program in the image, another version, another store) is in `tests/chaos/test_jobs.py`.
"""

import datetime as dt
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import exit_code
from orchestrator.errors import EXIT_UNUSABLE
from tests.clusters.kuberay.api_server import ApiServer, api_server
from tests.end_to_end.desk import Answer
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume
SLURM = "kind: slurm\nfolder: FOLDER/jobs\nmachines: {data: {partition: cpu, cpus: 4, nodes: 2}}\n"
KUBERAY = """\
kind: kuberay
namespace: mllm
image: registry.example/illume:0.2.0
queue: research
machines: {data: {cpus: 4, memory_gib: 8, nodes: 2}}
"""
ASKS = ("--set", "stages.loud.resources.")


def refused(illume: Illume, folder: Path, command: str, profile: str, *options: str) -> str:
    """What the command says, which starts nothing."""
    (folder / "profile.yaml").write_text(profile.replace("FOLDER", str(folder)))
    answer = illume(command, "words.yaml", "--cluster", "profile.yaml", *options)
    assert answer.code == EXIT_UNUSABLE, answer
    assert "Traceback" not in answer.err
    (message,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert illume("status", "--json").data["runs"] == []
    assert not (folder / ".illume/store/queue").exists()
    assert not (folder / "jobs").exists() or not any((folder / "jobs").iterdir())
    return message


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm with the partition `cpu`; `sbatch` says what a file holds, if it is there."""
    commands = tmp_path / "bin"
    commands.mkdir()
    refusal = tmp_path / "refusal"
    scripts = {
        "sinfo": "echo cpu",
        "squeue": "true",
        "sbatch": f"if [ -e {refusal} ]; then cat {refusal} >&2; exit 1; fi; echo 17",
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    return refusal


both = pytest.mark.parametrize("command", ["run", "submit"])


@both
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("cpu,", "gpus,"), (), "machines.data.partition: Slurm has no 'gpus'; it has cpu"),
        (("", ""), (ASKS[0], f"{ASKS[1]}cpus=64"), "stages.loud.resources: no machine type (data) holds a worker"),
        (("", ""), (ASKS[0], f"{ASKS[1]}machine=train"), "stages.loud.resources.machine: 'train'"),
        (("", ""), (ASKS[0], f"{ASKS[1]}workers=9"), "stages.loud.resources.workers: 9 do not fit the machine types"),
    ],
)
def test_a_machine_that_is_not_there(
    illume: Illume,
    slurm: Path,
    tmp_path: Path,
    command: str,
    change: tuple[str, str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert message in refused(illume, tmp_path, command, SLURM.replace(*change), *options)


@both
@pytest.mark.parametrize(
    "said",
    [
        "allocation failure: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    ],
)
def test_a_node_that_slurm_does_not_have_or_give(
    illume: Illume, slurm: Path, tmp_path: Path, command: str, said: str
) -> None:
    slurm.write_text(said)
    assert f"machines.data: Slurm refuses the job: {said}" in refused(illume, tmp_path, command, SLURM)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    if importlib.util.find_spec("kubernetes") is None:
        pytest.skip("needs the package kubernetes: pip install 'illume-orchestrator[kubernetes]'")
    with api_server() as server:
        cluster = {"name": "c", "cluster": {"server": server.address}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster]}
        config |= {"contexts": [context], "users": [{"name": "u", "user": {}}]}
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield server


@both
def test_a_queue_that_does_not_exist(illume: Illume, kubernetes: ApiServer, tmp_path: Path, command: str) -> None:
    message = refused(illume, tmp_path, command, KUBERAY)
    assert "cannot find Kueue's queue 'research': localqueues.kueue.x-k8s.io \"research\" not found" in message
    assert kubernetes.objects == {}


@both
def test_no_rights_in_the_namespace(illume: Illume, kubernetes: ApiServer, tmp_path: Path, command: str) -> None:
    kubernetes.forbidden.add("rayjobs")
    message = refused(illume, tmp_path, command, KUBERAY)
    assert "no rights: rayjobs is forbidden; ask for the role in clusters/README.md" in message


@both
def test_a_worker_that_no_pod_holds(illume: Illume, kubernetes: ApiServer, tmp_path: Path, command: str) -> None:
    kubernetes.queues.add("research")
    message = refused(illume, tmp_path, command, KUBERAY, ASKS[0], f"{ASKS[1]}memory_gib=64")
    assert "stages.loud.resources: no machine type (data) holds a worker of 1 CPUs, 0 GPUs and 64 GiB" in message
    assert kubernetes.objects == {}


def test_prices_of_last_year_and_a_budget_below_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")
    (tmp_path / "profile.yaml").write_text(
        "kind: ray_jobs\naddress: http://127.0.0.1:1\nmachines: {train: {gpu: H100, gpus: 8, nodes: 8, cpus: 96}}\n"
    )
    today = dt.datetime.now(tz=dt.UTC).date()
    for name, date in (("old", today - dt.timedelta(days=366)), ("new", today)):
        (tmp_path / f"{name}.yaml").write_text(f"date: {date}\nper_gpu_hour: {{H100-SXM: {{on_demand: [2, 3]}}}}\n")
    for options, message in (
        (("--prices", "old.yaml"), "--prices: found prices of"),
        (("--prices", "new.yaml", "--budget", "money=1e-9"), "--budget: money=1e-09 is below the estimate of"),
        (("--budget", "gpu_hours=1e-9"), "--budget: gpu_hours=1e-09 is below the estimate of"),
    ):
        code = exit_code(["submit", "quickstart", "--cluster", "profile.yaml", *options])
        answer = Answer(code=code, out="", err=capsys.readouterr().err)
        assert answer.code == EXIT_UNUSABLE
        (line,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
        assert message in line


def test_a_cron_line_that_never_fires(illume: Illume) -> None:
    pytest.importorskip("cronsim", reason="no cronsim here: pip install cronsim")
    answer = illume("schedule", "add", "words.yaml", "--cron", "0 0 31 2 *")
    assert answer.code == EXIT_UNUSABLE
    assert "'0 0 31 2 *', which never fires" in answer.err
