"""`illume schedule`: what is added, listed, paused, and refused."""

import datetime as dt
from pathlib import Path

import pytest

from orchestrator.queue.records import Schedule
from orchestrator.queue.rows import newest_of
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

pytest.importorskip("cronsim", reason="no cronsim here: pip install cronsim")
illume = test_cli.illume


def test_a_schedule_is_added_listed_paused_and_removed(illume: Illume) -> None:
    added = illume("schedule", "add", "words.yaml", "--name", "nightly", "--cron", "30 2 * * *", "--json").data
    assert added["name"] == "nightly"
    assert added["next"].endswith(":30:00.000000Z")
    (row,) = illume("schedule", "list", "--json").data["schedules"]
    assert (row["next"], row["is_paused"], row["overlap"]) == (added["next"], False, "skip")
    assert illume("schedule", "pause", "nightly").code == 0
    assert "nightly: 30 2 * * * UTC; paused" in illume("schedule", "list").out
    assert illume("schedule", "resume", "nightly").code == 0
    assert illume("schedule", "remove", "nightly").code == 0
    assert illume("schedule", "list").out.startswith("no schedules")
    assert "found no schedule 'nightly'" in illume("schedule", "pause", "nightly").err


def test_a_name_is_used_once(illume: Illume) -> None:
    command = ("schedule", "add", "words.yaml", "--name", "nightly", "--cron", "0 0 * * *")
    assert illume(*command).code == 0
    again = illume(*command)
    assert again.code == 2
    assert "exists already" in again.err


PROFILE = """
kind: ray_jobs
address: http://head:8265
machines: {train: {gpu: H100, gpus: 8, nodes: 8, cpus: 96, memory_gib: 900}}
"""


def test_a_budget_in_money_needs_prices_of_today_and_keeps_them(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE)
    for name, date in (("old", dt.date(2025, 1, 1)), ("prices", dt.datetime.now(tz=dt.UTC).date())):
        (tmp_path / f"{name}.yaml").write_text(f"date: {date}\nper_gpu_hour: {{H100-SXM: {{on_demand: [2, 3]}}}}\n")
    command = ("schedule", "add", "words.yaml", "--name", "nightly", "--cron", "0 0 * * *", "--budget", "money=9")
    refused = illume(*command, "--cluster", "profile.yaml", "--prices", "old.yaml")
    assert refused.code == 2
    assert "which are old; give a file with those of today" in refused.err
    assert illume(*command, "--cluster", "profile.yaml", "--prices", "prices.yaml").code == 0
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        found = newest_of(workspace.database, Schedule, "nightly")
    assert found is not None
    assert found[1].prices == {"said": 2.5, "loud": 2.5, "pair": 2.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cron", "0 0 31 2 *"), "'0 0 31 2 *', which never fires"),
        (("--cron", "61 0 * * *"), "'61 0 * * *', which is no cron line: bad minute; expected five fields"),
        (("--cron", "0 0 * *"), "'0 0 * *', which is no cron line: wrong number of fields; expected five fields"),
        (("--cron", "0 0 * * *", "--name", "a b"), "--name: found 'a b', expected 1 to 64 letters"),
        (("--cron", "0 0 * * *", "--name", "../x"), "--name: found '../x', expected 1 to 64 letters"),
        (("--cron", "0 0 * * *", "--cluster", "missing.yaml"), "missing.yaml: cannot read the profile: No such file"),
        (("--cron", "0 0 * * *", "--zone", "Mars/Base"), "expected a time zone"),
        (("--files", "nowhere"), "--files: found no folder"),
        (("--pins", "train"), "--pins: found 'train'"),
        ((), "expected one of --cron, --files and --pins"),
        (("--cron", "0 0 * * *", "--files", "."), "expected one of --cron, --files and --pins"),
    ],
)
def test_what_can_never_fire_is_refused(illume: Illume, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    answer = illume("schedule", "add", "words.yaml", *options)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert not (tmp_path / ".illume").exists()
