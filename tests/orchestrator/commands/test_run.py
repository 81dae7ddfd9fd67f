"""`illume run`, `resume` and `cancel`: what is run, reused, interrupted and continued."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml

from orchestrator.commands.shared.stopping import StopSignals
from orchestrator.errors import EXIT_REQUEUE
from orchestrator.planning.code_digest import CodeDigest
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, actions, newest

illume = test_cli.illume


def test_a_recipe_runs_to_its_end(illume: Illume) -> None:
    answer = illume("run", "words.yaml")
    assert answer.code == 0, answer.err
    assert "3 to run, 0 reused, 0 skipped" in answer.out
    assert "pair: COMMITTED" in answer.out
    assert actions(illume) == dict.fromkeys(("said", "loud", "pair"), "reuse")
    again = illume("run", "words.yaml")
    assert (again.code, again.out) == (0, f"nothing to run: everything exists since run {newest(illume)['run_id']}\n")


def test_a_changed_value_runs_the_stages_that_depend_on_it_and_shows_why(illume: Illume) -> None:
    illume("run", "words.yaml")
    override = ("--set", "stages.loud.config.times=3")
    plan = illume("plan", "words.yaml", *override)
    assert re.search(r"said +say +reuse", plan.out)
    assert re.search(r"loud +shout +run +config\.times: 2 -> 3", plan.out)
    assert re.search(r"pair +shout +run +upstream re-runs: loud", plan.out)
    assert "2 to run, 1 reused, 0 skipped; about" in plan.out
    assert illume("run", "words.yaml", *override).code == 0
    assert set(actions(illume, *override).values()) == {"reuse"}


def test_a_forced_stage_is_made_again(illume: Illume) -> None:
    illume("run", "words.yaml")
    assert illume("run", "words.yaml", "--force", "loud").code == 0
    status = illume("status", newest(illume)["run_id"], "--json").data
    assert {stage["stage_id"]: stage["state"] for stage in status["stages"]} == {
        "said": "REUSED",
        "loud": "COMMITTED",
        "pair": "COMMITTED",
    }


def test_changed_code_is_warned_of_once(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    illume("run", "words.yaml")
    changed = CodeDigest(files={"tests/orchestrator/test_cli.py": "0" * 64})
    monkeypatch.setattr("orchestrator.planning.store_view.code_of", lambda _kind: changed)
    for command in (("plan",), ("plan", "--json"), ("run", "--set", "stages.pair.config.times=4")):
        answer = illume(command[0], "words.yaml", *command[1:])
        assert answer.err.count("warning: said is reused, though ") == 1, command


def test_an_interrupted_forced_run_is_completed(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    command = ("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    illume(*command)
    fault.write_text("interrupt")
    assert illume(*command, "--force", "loud").code == EXIT_REQUEUE
    cut_off = newest(illume)["run_id"]
    fault.unlink()
    assert f"continuing run {cut_off}" in illume(*command).err
    status = illume("status", cut_off, "--json").data
    assert [stage["state"] for stage in status["stages"]] == ["REUSED", "COMMITTED", "COMMITTED"]


def test_a_failed_stage_exits_with_1_and_resume_continues(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    failed = illume("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    assert failed.code == 1
    assert "out of breath" in failed.err
    assert "blocked: pair" in failed.err
    run_id = newest(illume)["run_id"]
    assert "out of breath" in illume("logs", f"{run_id}:loud").out
    fault.unlink()
    assert illume("resume").code == 0
    assert newest(illume)["state"] == "SUCCEEDED"
    assert newest(illume)["run_id"] == run_id
    assert illume("resume", run_id).out == f"run {run_id} is done; `illume run` makes a new plan\n"


def test_ctrl_c_stops_cleanly_and_running_again_continues_the_same_run(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("interrupt")
    command = ("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    before = signal.getsignal(signal.SIGINT)
    stopped = illume(*command)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.code == EXIT_REQUEUE
    assert "Ctrl-C: stopping at the next commit point" in stopped.err
    assert "stopped; not done: loud, pair" in stopped.err
    cut_off = newest(illume)
    assert cut_off["state"] == "INTERRUPTED"
    fault.unlink()
    again = illume(*command)
    assert again.code == 0, again.err
    assert f"continuing run {cut_off['run_id']}" in again.err
    assert newest(illume)["epoch"] == 2
    kinds = [json.loads(line) for line in illume("events", "--json").out.splitlines()]
    assert [event["stage"] for event in kinds if event["fields"].get("to") == "COMMITTED"] == ["said", "loud", "pair"]


def test_other_resources_make_a_new_run_that_reuses_artifacts(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    command = ("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    assert illume(*command).code == 1
    failed = newest(illume)["run_id"]
    fault.unlink()
    again = illume(*command, "--set", "stages.loud.resources.workers=2")
    assert again.code == 0, again.err
    assert "continuing" not in again.err
    assert newest(illume)["run_id"] != failed
    status = illume("status", "words", "--json").data
    assert [stage["state"] for stage in status["stages"]] == ["REUSED", "COMMITTED", "COMMITTED"]


def test_json_prints_every_event_once_and_nothing_else(illume: Illume) -> None:
    events = [json.loads(line) for line in illume("run", "words.yaml", "--json").out.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "run_created"
    assert events[-1]["fields"]["to"] == "SUCCEEDED"


def test_a_profile_selects_the_cluster(illume: Illume, tmp_path: Path) -> None:
    profile = tmp_path / "here.yaml"
    profile.write_text("kind: local\ncpus: 2\n")
    assert illume("run", "words.yaml", "--cluster", str(profile)).code == 0
    profile.write_text("kind: ray\naddress: nowhere\n")
    refused = illume("run", "words.yaml", "--cluster", str(profile))
    assert refused.code == 2
    assert "address: found 'nowhere', expected 'host:port'" in refused.err
    missing = illume("resume", "--cluster", "absent.yaml")
    assert missing.code == 2
    assert "absent.yaml" in missing.err


def test_a_finished_run_cannot_be_cancelled(illume: Illume) -> None:
    illume("run", "words.yaml")
    answer = illume("cancel", "words")
    assert (answer.code, "found it SUCCEEDED" in answer.err) == (2, True)


def test_detaching_needs_stages_that_outlive_the_process(illume: Illume) -> None:
    answer = illume("run", "words.yaml", "--detach")
    assert answer.code == 2
    assert "--detach: stages run in this process and end with it; use a cluster profile of Ray jobs" in answer.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("detaching", [(), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
def test_a_signal_stops_the_work_or_leaves_it_running(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, detaching: tuple[signal.Signals, ...]
) -> None:
    with StopSignals(grace_s=0.0) as signals:
        signals.begin(detaching=detaching)
        signal.raise_signal(number)
        assert signals.events.stop.is_set()
        assert signals.events.detached.is_set() == (number in detaching)
    text = "leaving the jobs running" if number in detaching else "stopping at the next commit point"
    assert text in capsys.readouterr().err


def test_a_secret_in_a_configuration_is_kept_nowhere_and_the_run_that_needs_it_continues_from_the_recipe(
    illume: Illume, tmp_path: Path
) -> None:
    secret = "hf_" + "aB3dE6gH9" * 4
    fault = tmp_path / "fault"
    fault.write_text("fail")
    command = ("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")
    with_secret = (*command, "--set", f"stages.said.config.text={secret}")
    failed = illume(*with_secret)
    assert failed.code == 1
    fault.unlink()
    refused = illume("resume")
    assert refused.code == 2
    assert "stages.said.config: holds a secret, and no plan keeps secrets; continue with `illume run " in refused.err
    done = illume(*with_secret)
    assert "continuing run" in done.err
    assert done.code == 0
    outputs = {path for path in tmp_path.rglob("words.txt")}
    assert any(secret in path.read_text() for path in outputs)  # the stage itself was given it
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert set(leaks) <= outputs
    assert secret not in failed.out + failed.err + refused.err + done.out + done.err
    assert illume(*command, "--set", f"stages.said.config.text={secret[::-1]}").code == 0  # no secret: another identity
    rotated = illume("plan", "words.yaml", "--json", "--set", f"stages.said.config.text=hf_{'x' * 36}")
    assert rotated.data["stages"][0]["action"] == "reuse"


KUBERAY = "kind: kuberay\nnamespace: mllm\nimage: illume:1\nmachines: {data: {cpus: 8}}\n"
SLURM = "kind: slurm\nfolder: /shared/jobs\nmachines: {data: {cpus: 8, partition: cpu}}\n"
RAY_JOBS = "kind: ray_jobs\naddress: http://nowhere.invalid:8265\n"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [(KUBERAY, "kind: RayJob"), (SLURM, "#SBATCH --partition=cpu"), (RAY_JOBS, '"submission_id"')],
    ids=["kuberay", "slurm", "ray_jobs"],
)
def test_the_job_of_each_stage_is_printed_and_nothing_is_begun(
    illume: Illume, tmp_path: Path, profile: str, expected: str
) -> None:
    (tmp_path / "profile.yaml").write_text(profile)
    answer = illume("run", "words.yaml", "--cluster", "profile.yaml", "--dry-run", "--store", str(tmp_path / "store"))
    assert answer.code == 0, answer.err
    jobs = answer.out.split("\n---\n")[:-1]
    assert len(jobs) == 3
    assert all(expected in job and "stage-driver RUN" in " ".join(job.split()) for job in jobs)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / ".illume").exists()


def test_manifests_can_be_read_by_kubectl(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(KUBERAY)
    answer = illume("run", "words.yaml", "--cluster", "profile.yaml", "--dry-run")
    documents = [document for document in yaml.safe_load_all(answer.out) if document]
    assert [document["kind"] for document in documents] == ["RayJob"] * 3


def test_without_a_cluster_nothing_would_be_sent(illume: Illume) -> None:
    answer = illume("run", "words.yaml", "--dry-run")
    assert answer.code == 2
    assert "Name a cluster that takes jobs" in answer.err
