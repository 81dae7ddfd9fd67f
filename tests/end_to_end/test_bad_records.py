"""Records that cannot be right, through the command line: refused or reported in one line that names the file.

Nothing is deleted because of one. Records of checkpoints, stops and quarantined items: `test_attempt_guard.py`,
`test_job_records.py`, `test_map_run.py`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.store.store import open_store
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, actions, newest

illume = test_cli.illume
OTHER = ("--set", "stages.loud.config.times=3")
COLLECT = ("gc", "--unneeded-days", "0", "--older-than-h", "0", "--delete", "--json")
STORE = Path(".illume/store")


def files() -> set[str]:
    return {path.as_posix() for path in STORE.rglob("*") if path.is_file() and ".tmp" not in path.parts}


def lines_about(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if name in line]


def test_a_record_of_use_by_an_attempt_that_nobody_knows_keeps_what_it_names(illume: Illume) -> None:
    illume("run", "words.yaml")
    plan = illume("plan", "words.yaml", "--json").data
    loud = next(stage for stage in plan["stages"] if stage["id"] == "loud")["fingerprint"]
    nobody = AttemptId.of("20200101-000000-ffffff", "pair", epoch=1, number=1)
    record_use(open_store(STORE), nobody, ArtifactKey("shout", "ab" * 32), artifacts=[ArtifactKey("shout", loud)])
    (record,) = (STORE / "uses" / nobody.name).iterdir()
    illume("run", "words.yaml", *OTHER)
    collected = illume(*COLLECT)
    assert collected.code == 0, collected.err
    (line,) = lines_about(illume("gc").out, nobody.name)
    assert "known neither to the store nor to the database, so it will never end; `illume index rebuild` finds" in line
    assert f"delete uses/{nobody.name}/ from the store" in line
    assert record.exists()
    assert actions(illume)["loud"] == "reuse"


def test_an_epoch_from_the_future_is_named_and_passed(
    illume: Illume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("interrupt")
    cut_off = ("--set", f"stages.pair.config.fault={trouble}")
    assert illume("run", "words.yaml", *cut_off).code != 0
    run = newest(illume)["run_id"]
    epoch = STORE / "runs" / run / "epochs" / "004711.json"
    epoch.write_text("{}")
    trouble.unlink()
    before = files()
    resumed = illume("resume")
    assert resumed.code == 0, resumed.err
    (line,) = lines_about(caplog.text, epoch.name)
    assert "the store knows its epoch 4711" in line
    assert before - files() == set()
    assert (epoch.parent / "004712.json").exists()


@pytest.mark.parametrize("ahead_s", [600.0, -600.0])
def test_a_node_whose_clock_is_ten_minutes_off_deletes_nothing(illume: Illume, ahead_s: float) -> None:
    """It stamps files, commits and its runs are read by others: ages and orders must not follow its clock."""
    illume("run", "words.yaml")
    for path in STORE.rglob("*"):
        if path.is_file():
            stamp = path.stat().st_mtime + ahead_s
            os.utime(path, (stamp, stamp))
    for commit in STORE.rglob("COMMIT"):
        record = json.loads(commit.read_text())
        commit.chmod(0o644)
        commit.write_text(json.dumps({**record, "committed_s": record["committed_s"] + ahead_s}))
    before = files()
    assert illume("run", "words.yaml").code == 0
    assert illume("gc", "--unneeded-days", "1", "--delete", "--json").code == 0
    assert illume("verify", "--json").data["problems"] == []
    assert before - files() == set()
    assert set(actions(illume).values()) == {"reuse"}


@pytest.mark.parametrize("command", [("run", "words.yaml"), COLLECT, ("verify", "--heal"), ("takedown", "list")])
@pytest.mark.parametrize("spoil", ["another's", "unreadable", "gone"])
def test_a_store_with_the_wrong_identity_is_refused_by_name(
    illume: Illume, command: tuple[str, ...], spoil: str
) -> None:
    illume("run", "words.yaml")
    identity = STORE / "STORE.json"
    content: dict[str, Callable[[str], str | None]] = {
        "another's": lambda text: json.dumps({**json.loads(text), "store_id": "0" * 32}),
        "unreadable": lambda text: text[:-20],
        "gone": lambda _text: None,
    }
    changed = content[spoil](identity.read_text())
    identity.unlink()
    if changed is not None:
        identity.write_text(changed)
    before = files()
    refused = illume(*command)
    assert refused.code in (1, 2, 75), refused.out
    assert len(lines_about(refused.err, "STORE.json")) == 1
    assert "Traceback" not in refused.err
    assert files() == before
