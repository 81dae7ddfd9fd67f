"""A small store of an earlier version, kept byte by byte in `stored_formats.json`: every record of it stays readable.

A change that needs other bytes raises the format's number and goes on to read these; the file itself never changes.
"""

import json
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import shard_from_bytes
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.attempt_id import AttemptId
from orchestrator.retention.pins import pins
from orchestrator.store.commits import head
from orchestrator.store.layout import checkpoint_site, shard_site
from orchestrator.store.shard_packs import list_packs, read_packs
from orchestrator.store.store import Store, open_store
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, actions

illume = test_cli.illume
KEPT = json.loads(Path(__file__).with_name("stored_formats.json").read_text())  # key -> text
STAGE = ArtifactKey("curate", "25c26e12c5ce91e909db4ff9ada99d860b2bef7216f91d7689ed6f12bfd310f1")
SHARD = ArtifactKey("curate", "cd" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / ".illume" / "store"
    for key, text in KEPT.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return open_store(root)


def test_runs_are_found_and_everything_is_reused(illume: Illume, store: Store) -> None:
    rebuilt = illume("index", "rebuild", "--json").data
    assert (rebuilt["runs"], rebuilt["problems"]) == (2, [])
    assert [run["state"] for run in illume("status", "--json").data["runs"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert set(actions(illume).values()) == {"reuse"}
    assert set(actions(illume, "--set", "stages.loud.config.times=3").values()) == {"reuse"}
    assert illume("verify", "--json").data == {"format": 1, "checked": 6, "problems": []}
    events = illume("events", "words", "--json").out.splitlines()
    assert len(events) == sum(text.count("\n") for key, text in KEPT.items() if "20261130-092226-075d03/events" in key)


def test_manifests_shards_and_checkpoints_are_read(store: Store, tmp_path: Path) -> None:
    artifacts, ledger = ArtifactStore(store, tmp_path / "cache"), ShardLedger(store, tmp_path / "cache")
    manifest = artifacts.open(STAGE).manifest
    assert [(entry.path, entry.bytes) for entry in manifest.files] == [("own", 3), ("shards/part.tar", 5)]
    assert (manifest.kind, manifest.metrics, manifest.shards) == ("dataset@1", {"rows": 1.0}, (SHARD.fingerprint,))
    shard = ledger.find(SHARD)
    assert shard is not None
    assert [(entry.path, entry.bytes) for entry in shard.files] == [("part.tar", 5)]
    assert ledger.verify(SHARD) == []
    attempt = AttemptId(run_id="run", stage_id="stage", epoch=1, name="a1")
    latest = StoredCheckpoints(store=store, cache=tmp_path / "cache", key=STAGE, attempt=attempt).latest()
    assert latest is not None
    assert (latest.step, latest.meta) == (2, {"step": 2})
    pruned = head(store, checkpoint_site(STAGE, 1))
    assert (pruned.commit, pruned.problem) == (None, "")


def test_packs_of_shard_records_are_read(store: Store) -> None:
    (pack,) = read_packs(store, list_packs(store, "curate"))
    (record,) = pack.records
    assert (record.fingerprint, record.generation) == (SHARD.fingerprint, 0)
    assert record.data + b"\n" == store.get(shard_site(SHARD).commit_key(0))
    assert shard_from_bytes(SHARD, 0, record.data).files[0].path == "part.tar"


def test_pins_and_takedowns_are_read(store: Store) -> None:
    assert [key.stage_kind for key in pins(store)] == ["say"]
    (takedown,) = read_takedowns(store)
    assert (takedown.id, takedown.content) == ("T1", {"digests": frozenset({"T1T1"})})
    assert [artifact.fingerprint for artifact in takedown.tainted] == ["9" * 64]
    assert takedown.shards == (ArtifactKey("work", "5" * 64),)
