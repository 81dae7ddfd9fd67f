"""`illume submit`: what is queued, what is refused before it waits, and that nothing is queued twice."""

import datetime as dt
from pathlib import Path

import pytest

from orchestrator.queue.records import MAX_PRIORITY, bounded
from tests.orchestrator import test_cli
from tests.orchestrator.commands import test_estimate
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume
builtin = test_estimate.illume
PROFILE = """\
kind: ray_jobs
address: http://127.0.0.1:1
machines: {train: {gpu: H100, gpus: 8, nodes: 8, cpus: 96, memory_gib: 900}}
"""


def test_a_submitted_run_waits_and_starts_nothing(illume: Illume, tmp_path: Path) -> None:
    answer = illume("submit", "words.yaml", "--priority", "3", "--json")
    assert answer.code == 0, answer.err
    assert answer.data["is_new"] is True
    assert answer.data["stages"] == ["said", "loud", "pair"]
    run = newest(illume)
    assert (run["run_id"], run["state"]) == (answer.data["run_id"], "PLANNED")
    (entry,) = illume("queue", "--json").data["entries"]
    assert (entry["run_id"], entry["priority"], entry["position"], entry["state"]) == (run["run_id"], 3, 1, "WAITING")
    assert "illume serve --scheduler" in entry["waits_for"]
    assert list((tmp_path / ".illume/store/queue/submissions").iterdir())


def test_the_same_is_queued_once(illume: Illume) -> None:
    first = illume("submit", "words.yaml", "--json").data
    again = illume("submit", "words.yaml")
    assert f"run {first['run_id']} of" in again.out
    assert "is in the queue already" in again.out
    assert len(illume("queue", "--json").data["entries"]) == 1
    for option in (("--priority", "7"), ("--budget", "gpu_hours=5")):  # not dropped without a word
        refused = illume("submit", "words.yaml", *option)
        assert refused.code == 2
        assert f"{option[0]}: run {first['run_id']} of" in refused.err
    other = illume("submit", "words.yaml", "--set", "stages.said.config.text=bye", "--json").data
    assert other["is_new"] is True
    assert other["run_id"] != first["run_id"]


def test_a_priority_that_no_database_holds_is_refused_and_does_not_count_where_it_is_on_record(illume: Illume) -> None:
    assert illume("submit", "words.yaml", "--priority", "9" * 30).code == 2
    run_id = illume("submit", "words.yaml", "--json").data["run_id"]
    assert illume("priority", run_id, "9" * 30).code == 2
    assert bounded(10**30) == MAX_PRIORITY
    assert bounded(-(10**30)) == -MAX_PRIORITY


def test_a_run_in_the_foreground_carries_the_queued_one_out(illume: Illume) -> None:
    run_id = illume("submit", "words.yaml", "--json").data["run_id"]
    assert f"continuing run {run_id}" in illume("run", "words.yaml").err
    assert newest(illume)["state"] == "SUCCEEDED"
    assert illume("queue", "--json").data["entries"] == []
    assert "nothing to run" in illume("submit", "words.yaml").out


def test_an_interrupted_run_is_queued_under_its_id(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    override = ("--set", f"stages.loud.config.fault={fault}")
    illume("run", "words.yaml", *override)
    failed = newest(illume)["run_id"]
    fault.unlink()
    assert illume("submit", "words.yaml", *override, "--json").data["run_id"] == failed


def test_a_cancelled_run_leaves_the_queue(illume: Illume) -> None:
    run_id = illume("submit", "words.yaml", "--json").data["run_id"]
    assert illume("cancel", run_id).code == 0
    assert illume("queue").out.startswith("the queue is empty")


def test_a_run_waits_for_the_one_it_follows(illume: Illume) -> None:
    first = illume("submit", "words.yaml", "--json").data["run_id"]
    bye = ("--set", "stages.said.config.text=bye")
    second = illume("submit", "words.yaml", *bye, "--after", first, "--json").data["run_id"]
    entries = {entry["run_id"]: entry for entry in illume("queue", "--json").data["entries"]}
    assert entries[second]["waits_for"] == f"run {first} to succeed"
    illume("cancel", first)
    (left,) = illume("queue", "--json").data["entries"]
    assert left["waits_for"] == f"run {first}, which is CANCELLED; `illume resume {first}` continues it"
    unknown = illume("submit", "words.yaml", "--after", "nosuch")
    assert unknown.code == 2
    assert "found no run 'nosuch'" in unknown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "gpu_hours=0.00001"), "--budget: gpu_hours=1e-05 is below the estimate of "),
        (("--budget", "money=0.0001"), "--budget: money=0.0001 is below the estimate of "),
        (("--budget", "hours=3"), "--budget: found 'hours=3', expected gpu_hours=200 or money=900"),
        (("--budget", "money=-3"), "--budget: found 'money=-3', expected gpu_hours=200 or money=900"),
        (("--prices", "old.yaml"), "--prices: found prices of 2025-01-01 in old.yaml, which are old"),
    ],
)
def test_what_cannot_work_is_refused_before_it_waits(
    builtin: Illume, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE)
    today = dt.datetime.now(tz=dt.UTC).date()
    per_gpu_hour = "per_gpu_hour: {H100-SXM: {on_demand: [2, 3]}}"
    (tmp_path / "old.yaml").write_text(f"date: 2025-01-01\n{per_gpu_hour}\n")
    (tmp_path / "new.yaml").write_text(f"date: {today}\n{per_gpu_hour}\n")
    prices = () if "--prices" in arguments else ("--prices", "new.yaml")
    answer = builtin("submit", "quickstart", "--cluster", "profile.yaml", *prices, *arguments)
    assert message in answer.err, answer.err
    assert (answer.code, answer.out) == (2, "")
    assert not (tmp_path / ".illume/store/queue").exists()


def test_a_cluster_without_the_partition_of_the_profile_is_refused(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = tmp_path / "bin"
    slurm.mkdir()
    (slurm / "sinfo").write_text("#!/bin/sh\necho cpu\n")
    (slurm / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slurm}:/usr/bin:/bin")
    (tmp_path / "slurm.yaml").write_text(
        f"kind: slurm\nfolder: {tmp_path}/jobs\nmachines: {{data: {{partition: fast, cpus: 4}}}}\n"
    )
    answer = illume("submit", "words.yaml", "--cluster", "slurm.yaml")
    assert answer.code == 2
    assert "machines.data.partition: Slurm has no 'fast'; it has cpu" in answer.err
