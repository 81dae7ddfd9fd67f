"""Retracting unneeded artifacts through the command line: what stays, what is deleted, what is made again."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, ManifestDraft
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.identity import fingerprint_of
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.pins import pin
from orchestrator.retention.unneeded import check_complete, retract_unneeded, unneeded_artifacts
from orchestrator.shards import ShardOutcome
from orchestrator.store.store import Store
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume
OTHER = ("--set", "stages.loud.config.times=3")
NOW = ("gc", "--unneeded-days", "0", "--older-than-h", "0", "--json")

Given = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def given(illume: Illume) -> Given:
    """(stage kind, fingerprint) of each unneeded artifact."""
    return lambda: [(artifact["stage_kind"], artifact["fingerprint"]) for artifact in illume(*NOW).data["unneeded"]]


def fingerprints(illume: Illume, *arguments: str) -> dict[str, str]:
    return {
        stage["id"]: stage["fingerprint"] for stage in illume("plan", "words.yaml", "--json", *arguments).data["stages"]
    }


def test_an_artifact_of_only_an_older_run_is_deleted_and_made_again_on_demand(illume: Illume, given: Given) -> None:
    illume("run", "words.yaml")
    assert given() == []  # the newest run of its recipe
    old = fingerprints(illume)
    illume("run", "words.yaml", *OTHER)
    assert sorted(given()) == sorted([("shout", old["loud"]), ("shout", old["pair"])])
    assert len(illume("verify", "--json").data["problems"]) == 0
    report = illume(*NOW, "--delete").data
    assert Counter(item["reason"] for item in report["garbage"]) == {"retracted": 2, "use": 4}
    assert report["collected"]["items"] == 6
    assert report["collected"]["bytes"] > 0
    assert given() == []
    assert illume("verify", "--json").data == {"format": 1, "checked": 3, "problems": []}
    assert set(test_cli.actions(illume, *OTHER).values()) == {"reuse"}
    assert test_cli.actions(illume) == {"said": "reuse", "loud": "run", "pair": "run"}
    assert illume("run", "words.yaml").code == 0
    assert fingerprints(illume) == old


def test_a_pin_keeps_an_artifact_and_what_it_was_made_from(illume: Illume, given: Given) -> None:
    illume("run", "words.yaml")
    run_id = newest(illume)["run_id"]
    old = fingerprints(illume)
    illume("run", "words.yaml", *OTHER)
    assert illume("pin", f"{run_id}:pair").code == 0
    assert illume("pin").out == f"shout {old['pair']}\n"
    assert given() == []
    assert illume("pin", old["pair"], "--remove").code == 0
    assert illume("pin").out == ""
    assert len(given()) == 2
    assert illume("pin", f"{run_id}:loud").code == 0
    assert given() == [("shout", old["pair"])]


def test_young_artifacts_stay(illume: Illume) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", *OTHER)
    assert illume("gc", "--unneeded-days", "1", "--json").data["unneeded"] == []


def test_age_is_that_of_the_commit(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", *OTHER)
    long_ago = time.time() - 10 * 24 * 3600
    for path in (tmp_path / ".illume" / "store" / "artifacts").rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert len(illume("gc", "--unneeded-days", "9", "--json").data["unneeded"]) == 2
    assert illume("gc", "--unneeded-days", "11", "--json").data["unneeded"] == []


def test_an_interrupted_run_keeps_its_artifacts(illume: Illume, given: Given, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("interrupt")
    cut_off = ("--set", f"stages.pair.config.fault={trouble}")
    assert illume("run", "words.yaml", *cut_off).code != 0
    illume("run", "words.yaml", *OTHER)
    assert given() == []


def test_a_registered_model_stays(illume: Illume, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", *OTHER)
    monkeypatch.setattr("orchestrator.commands.gc._is_registered", lambda stage_kind: stage_kind == "shout")
    assert given() == []


def test_an_index_that_does_not_know_every_run_decides_nothing(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", *OTHER)
    (tmp_path / ".illume" / "index.db").unlink()
    answer = illume(*NOW, "--delete")
    assert answer.code != 0
    assert "`illume index rebuild`" in answer.err
    illume("index", "rebuild")
    found: list[Any] = illume(*NOW).data["unneeded"]
    assert len(found) == 2


def test_runs_that_the_database_does_not_know_are_counted(database: Database, local_store: Store) -> None:
    records = RunRecords(local_store)
    RunStore(database).create_run("run-1", recipe_name="r", plan_digest="d", stages=[])
    records.put_run("run-1", {})
    check_complete(local_store, database)
    for run_id in ("run-3", "run-2"):
        records.put_run(run_id, {})
    with pytest.raises(DatabaseError, match=r"does not know 2 runs of .*, the first is run-2; make it complete"):
        check_complete(local_store, database)


def liveness_of(store: Store, database: Database) -> Liveness:
    return Liveness(store=store, database=database, leases=Leases(database), jobs=None)


def test_a_shard_that_another_artifact_contains_stays(tmp_path: Path, database: Database, local_store: Store) -> None:
    liveness = liveness_of(local_store, database)
    artifacts, ledger = ArtifactStore(local_store, tmp_path / "cache"), ShardLedger(local_store, tmp_path / "cache")

    def shard(fingerprint: str) -> ArtifactKey:
        key = ArtifactKey("curate", fingerprint)
        output = ledger.new_output(key, owner="run-1-a1")
        (output.data / "part.tar").write_text(fingerprint)
        ledger.record(output, ShardOutcome(rows=1), provenance={})
        return key

    def made(side: int, *shards: ArtifactKey) -> ArtifactKey:
        payload = {"kind": "curate", "side": side}
        key = ArtifactKey("curate", fingerprint_of(payload))
        attempt = artifacts.new_attempt(key, f"a{side}")
        (attempt.data / "file").write_text("content")
        fingerprints = tuple(found.fingerprint for found in shards)
        draft = ManifestDraft(kind="dataset@1", payload=payload, metrics={}, shards=fingerprints)
        artifacts.commit(attempt, draft, epoch=1)
        return key

    own, shared, other = (shard(name * 64) for name in "123")
    first, second = made(1, own, shared), made(2, shared, other)
    pin(local_store, second)
    unneeded = unneeded_artifacts(
        artifacts, liveness, now_s=time.time() + 10, older_than_s=0.0, is_registered=lambda _kind: False
    )
    assert [(artifact.key, artifact.shards) for artifact in unneeded] == [(first, (own.fingerprint,))]
    assert [artifact.key for artifact in retract_unneeded(artifacts, liveness, unneeded, reason="old")] == [first]
    assert [ledger.find(key) is None for key in (own, shared, other)] == [True, False, False]
    assert artifacts.find(first) is None
    assert artifacts.find(second) is not None


def test_a_shard_of_an_artifact_that_was_committed_meanwhile_stays(
    tmp_path: Path, database: Database, local_store: Store
) -> None:
    liveness = liveness_of(local_store, database)
    artifacts, ledger = ArtifactStore(local_store, tmp_path / "cache"), ShardLedger(local_store, tmp_path / "cache")
    key = ArtifactKey("curate", "1" * 64)
    output = ledger.new_output(key, owner="run-1-a1")
    (output.data / "part.tar").write_text("part")
    ledger.record(output, ShardOutcome(rows=1), provenance={})

    def make(side: int) -> None:
        payload = {"kind": "curate", "side": side}
        attempt = artifacts.new_attempt(ArtifactKey("curate", fingerprint_of(payload)), f"a{side}")
        (attempt.data / "file").write_text("content")
        draft = ManifestDraft(kind="dataset@1", payload=payload, metrics={}, shards=(key.fingerprint,))
        artifacts.commit(attempt, draft, epoch=1)

    make(1)
    unneeded = unneeded_artifacts(
        artifacts, liveness, now_s=time.time() + 10, older_than_s=0.0, is_registered=lambda _kind: False
    )
    make(2)
    assert len(retract_unneeded(artifacts, liveness, unneeded, reason="old")) == 1
    assert ledger.find(key) is not None
