"""`SlurmJobs` on commands that play Slurm: small scripts first on PATH, whose answers are files."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from clusters.slurm import jobs as slurm_jobs
from clusters.slurm.config import SlurmMachine, SlurmProfile
from clusters.slurm.jobs import SlurmJobs
from orchestrator.cluster.jobs import JobSize, JobState
from orchestrator.errors import NodeLostError, PrecheckError

JOB = "illume-r1-train-1-1"
COMMAND = """#!/bin/bash
echo "$(basename "$0") $*" >> {folder}/said
cat {folder}/$(basename "$0").out 2>/dev/null
cat {folder}/$(basename "$0").err >&2 2>/dev/null
exit $(cat {folder}/$(basename "$0").rc 2>/dev/null || echo 0)
"""


@dataclass(frozen=True, kw_only=True)
class Played:
    folder: Path
    jobs: SlurmJobs

    def answer(self, command: str, out: str = "", err: str = "", rc: int = 0) -> None:
        for ending, text in (("out", out), ("err", err), ("rc", str(rc))):
            (self.folder / f"{command}.{ending}").write_text(text)

    def said(self) -> list[str]:
        return (self.folder / "said").read_text().splitlines()

    def left(self, name: str, text: str) -> None:
        file = self.folder / "jobs" / JOB / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
        (commands / name).write_text(COMMAND.format(folder=tmp_path))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_jobs, "_LISTED_FOR_S", -1.0)
    profile = SlurmProfile(
        folder=str(tmp_path / "jobs"),
        machines={"train": SlurmMachine(cpus=9, gpu="H100", gpus=4, nodes=4, partition="gpu", gres="gpu:h100")},
        account="team",
        time_limit_min=600,
        environment={"NAME": "it's; rm -rf /"},
        setup="/opt/my env/activate",
        options=("--exclusive",),
    )
    (tmp_path / "said").touch()
    return Played(folder=tmp_path, jobs=SlurmJobs(profile=profile, size=JobSize(workers=8, gpus=1)))


def test_a_job_is_tried_and_then_submitted_once(slurm: Played) -> None:
    slurm.jobs.submit(JOB, "stage-driver r1 'two words'", {"run": "r1"})
    script = slurm.folder / "jobs" / JOB / "job.sbatch"
    assert [line for line in slurm.said() if line.startswith("sbatch")] == [
        f"sbatch --test-only --exclusive {script}",
        f"sbatch --parsable --exclusive {script}",
    ]
    slurm.answer("squeue", f"{JOB}|17|PENDING|Resources|r1\n")
    slurm.jobs.submit(JOB, "stage-driver r1", {"run": "r1"})
    assert len([line for line in slurm.said() if line.startswith("sbatch")]) == 2


def elastic(slurm: Played, **changes: Any) -> SlurmJobs:
    """Workers of four nodes, of which those of one are enough to begin; the head has a node of its own."""
    machines = {
        "train": replace(slurm.jobs.profile.machines["train"], array=True),
        "small": SlurmMachine(cpus=16, partition="cpu"),
    }
    profile = replace(slurm.jobs.profile, machines=machines, head="small", **changes)
    return SlurmJobs(profile=profile, size=JobSize(workers=16, min_workers=3, gpus=1))


def test_nodes_that_may_come_later_are_an_array_behind_the_job(slurm: Played) -> None:
    jobs, folder = elastic(slurm), slurm.folder / "jobs" / JOB
    slurm.answer("squeue", "")
    jobs.submit(JOB, "stage-driver r1", {"run": "r1"})
    assert [line.split()[-1] for line in slurm.said() if line.startswith("sbatch")] == [f"{folder}/job.sbatch"] * 2
    script, of_nodes = (folder / "job.sbatch").read_text(), (folder / "nodes.sbatch").read_text()
    for text in (script, of_nodes):
        assert text.startswith("#!/bin/bash\n")
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    assert [line for line in script.splitlines() if "--nodes=" in line or "partition" in line or "hetjob" in line] == [
        "#SBATCH --nodes=1",
        "#SBATCH --partition=cpu",
        "#SBATCH hetjob",
        "#SBATCH --nodes=1",
        "#SBATCH --partition=gpu",
    ]
    assert "#SBATCH --array=1-3" in of_nodes.splitlines()
    # The answer was lost, or the controller died: whoever asks for the job next queues its nodes, once.
    slurm.answer("squeue", f"{JOB}|17+0|RUNNING|None|r1\n{JOB}|17+1|RUNNING|None|r1\n")
    for _ in range(2):
        assert jobs.info(JOB) is not None
    jobs.submit(JOB, "stage-driver r1", {"run": "r1"})
    sent = [line for line in slurm.said() if line.startswith("sbatch --parsable")]
    assert sent[1:] == [f"sbatch --parsable --dependency=after:17 --exclusive {folder}/nodes.sbatch"]
    assert jobs.unfinished_jobs("r1") == [JOB]
    jobs.stop(JOB)
    assert slurm.said()[-1] == "scancel --batch --signal=TERM 17"


def test_the_nodes_of_a_job_that_died_are_given_back(slurm: Played) -> None:
    jobs = elastic(slurm)
    jobs.submit(JOB, "stage-driver r1", {"run": "r1"})
    slurm.answer("squeue", f"{JOB}|17+0|NODE_FAIL|NodeDown|r1\n{JOB}-nodes|18_[2-3]|PENDING|None|nodes:r1\n")
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.FAILED
    assert slurm.said()[-1] == f"scancel --me --name={JOB}-nodes"


def test_without_a_fewest_number_of_workers_all_nodes_come_together(slurm: Played) -> None:
    jobs = elastic(slurm).sized(JobSize(workers=16, gpus=1))
    jobs.submit(JOB, "stage-driver r1", {"run": "r1"})
    assert not (slurm.folder / "jobs" / JOB / "nodes.sbatch").exists()
    assert "#SBATCH --nodes=4" in jobs.preview(JOB, "stage-driver r1", {"run": "r1"}).splitlines()


def test_the_token_of_a_job_is_a_secret_and_stays(slurm: Played) -> None:
    slurm.jobs.submit(JOB, "stage-driver", {"run": "r1"})
    token = slurm.folder / "jobs" / JOB / "token"
    first = token.read_text()
    assert len(first) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    slurm.jobs.submit(JOB, "stage-driver", {"run": "r1"})
    assert token.read_text() == first
    assert first not in (slurm.folder / "jobs" / JOB / "job.sbatch").read_text()


@pytest.mark.parametrize(
    ("listed", "ended", "state", "message"),
    [
        ("PENDING|Priority", "", JobState.PENDING, "Slurm: Priority (job 17)"),
        ("RUNNING|None", "", JobState.RUNNING, "Slurm job 17"),
        ("COMPLETING|None", "", JobState.RUNNING, "Slurm job 17"),
        ("RESIZING|None", "", JobState.RUNNING, "Slurm job 17"),
        ("A_WORD_OF_A_LATER_SLURM|None", "", JobState.RUNNING, "Slurm job 17"),
        ("RESV_DEL_HOLD|ReservationDeleted", "", JobState.PENDING, "Slurm: ReservationDeleted (job 17)"),
        ("RUNNING|None", "0 ", JobState.SUCCEEDED, "exit code 0"),
        ("COMPLETED|None", "1 ", JobState.FAILED, "exit code 1"),
        ("", "75 setup failed", JobState.FAILED, "exit code 75: setup failed"),
        ("", "85 ", JobState.STOPPED, "asked to stop"),
        ("", "85 preempted", JobState.PREEMPTED, "its nodes were wanted"),
        ("PREEMPTED|None", "", JobState.PREEMPTED, "Slurm ended it: PREEMPTED"),
        ("TIMEOUT|TimeLimit", "", JobState.PREEMPTED, "Slurm ended it: TIMEOUT"),
        ("NODE_FAIL|NodeDown", "", JobState.FAILED, "Slurm ended it: NODE_FAIL"),
        ("CANCELLED|None", "", JobState.STOPPED, "Slurm ended it: CANCELLED"),
    ],
)
def test_states(slurm: Played, listed: str, ended: str, state: JobState, message: str) -> None:
    if listed:
        status, _, reason = listed.partition("|")
        slurm.answer("squeue", f"{JOB}|17|{status}|{reason}|r1\n")
    if ended:
        slurm.left("ended", ended)
    info = slurm.jobs.info(JOB)
    assert info is not None
    assert info.state is state
    assert message in info.message


def test_a_job_that_slurm_forgot_and_that_began_has_failed(slurm: Played) -> None:
    assert slurm.jobs.info(JOB) is None
    slurm.left("claim/slurm_id", "17")
    info = slurm.jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.FAILED


def test_a_second_job_of_one_name_does_not_hide_the_first(slurm: Played) -> None:
    slurm.answer("squeue", f"{JOB}|18|COMPLETED|None|r1\n{JOB}|17|RUNNING|None|r1\n")
    info = slurm.jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.RUNNING


def test_unfinished_jobs_of_a_run(slurm: Played) -> None:
    slurm.answer("squeue", f"{JOB}|17|RUNNING|None|r1\nother|18|PENDING|None|r2\nold|19|FAILED|None|r1\n")
    assert slurm.jobs.unfinished_jobs("r1") == [JOB]
    slurm.answer("squeue", f"{JOB}|17|EXPEDITING|None|r1\n")
    assert slurm.jobs.unfinished_jobs("r1") == [JOB]


def test_a_stop_asks_the_batch_shell_of_a_running_job(slurm: Played) -> None:
    slurm.answer("squeue", f"{JOB}|17|RUNNING|None|r1\nwaiting|18|PENDING|Priority|r1\n")
    slurm.jobs.stop(JOB)
    slurm.jobs.stop("waiting")
    slurm.jobs.stop("unknown")
    slurm.answer("squeue", "ended|19|COMPLETED|None|r1\n")
    slurm.jobs.stop("ended")
    assert [line for line in slurm.said() if line.startswith("scancel")] == [
        "scancel --batch --signal=TERM 17",
        "scancel 18",
    ]


def test_output_is_read_from_the_folder(slurm: Played) -> None:
    assert slurm.jobs.logs(JOB) == ""
    slurm.left("output.log", "one\ntwo\n")
    assert slurm.jobs.logs(JOB) == "one\ntwo\n"


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: invalid partition specified: gpus",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
    ],
)
def test_what_slurm_refuses_is_a_mistake_of_the_profile(slurm: Played, text: str) -> None:
    slurm.answer("sbatch", err=text, rc=1)
    with pytest.raises(PrecheckError, match="Slurm refuses the job"):
        slurm.jobs.submit(JOB, "stage-driver", {"run": "r1"})


@pytest.mark.parametrize("command", ["squeue", "sbatch"])
def test_a_controller_that_is_away_is_waited_for(slurm: Played, command: str) -> None:
    slurm.answer(command, err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", rc=1)
    with pytest.raises(NodeLostError, match="Unable to contact slurm controller"):
        slurm.jobs.submit(JOB, "stage-driver", {"run": "r1"})


def test_the_check_names_a_partition_that_does_not_exist(slurm: Played) -> None:
    slurm.answer("sinfo", "cpu\nfast\n")
    with pytest.raises(PrecheckError, match=r"machines\.train\.partition: Slurm has no 'gpu'; it has cpu, fast"):
        slurm.jobs.check()
    slurm.answer("sinfo", "gpu\n")
    slurm.jobs.check()


def test_the_check_names_a_machine_type_that_no_node_is_like(slurm: Played) -> None:
    slurm.answer("sinfo", "gpu\n")
    slurm.jobs.check()
    (asked,) = [line for line in slurm.said() if line.startswith("sbatch")]
    assert asked == (
        "sbatch --test-only --nodes=1 --partition=gpu --cpus-per-task=9 --gres=gpu:h100:4 --account=team --time=600 "
        "--exclusive --wrap=true"
    )
    slurm.answer("sbatch", err="allocation failure: Requested node configuration is not available", rc=1)
    with pytest.raises(PrecheckError, match=r"machines\.train: Slurm refuses .*Requested node configuration is not"):
        slurm.jobs.check()


def test_without_slurm_the_message_says_what_to_install(slurm: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PrecheckError, match="slurm-client"):
        slurm.jobs.check()


def test_a_folder_that_cannot_be_made_is_named(slurm: Played) -> None:
    (slurm.folder / "jobs").write_text("a file")
    with pytest.raises(PrecheckError, match=r"folder: .* cannot be made"):
        slurm.jobs.check()
