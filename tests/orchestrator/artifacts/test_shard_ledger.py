import json
import math
import pickle
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.backends.object_store import ObjectStore
from orchestrator.errors import StoreError
from orchestrator.shards import Quarantined, ShardOutcome
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.commits import delete_attempt
from orchestrator.store.layout import owner_of, shard_site
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore

SHARD = "cd" * 32
OUTCOME = ShardOutcome(
    rows=3,
    quarantined=(Quarantined(item={"file": "a.jpg", "row": 7}, reason="truncated"),),
    metrics={"kept": 2.0},
    result={"digest": "x", "list": [1, None, True]},
)


@pytest.fixture
def ledger(store: Store, tmp_path: Path) -> ShardLedger:
    return ShardLedger(store, tmp_path / "cache")


@pytest.fixture
def local(local_store: Store, tmp_path: Path) -> ShardLedger:
    return ShardLedger(local_store, tmp_path / "cache")


def record(ledger: ShardLedger, content: bytes = b"content", outcome: ShardOutcome = OUTCOME) -> StoredShard:
    output = ledger.new_output(ArtifactKey("curate", SHARD), owner="run-1-a1")
    (output.data / "part.tar").write_bytes(content)
    (output.data / "rows").mkdir()
    (output.data / "rows/part.parquet").write_bytes(b"rows")
    return ledger.record(output, outcome, provenance={"run": "run-1", "attempt": "a1"}, epoch=2)


def test_a_recorded_shard_comes_back_exactly_in_any_later_run(ledger: ShardLedger) -> None:
    assert ledger.find(ArtifactKey("curate", SHARD)) is None
    stored = record(ledger)
    assert ledger.find(ArtifactKey("curate", SHARD)) == stored
    assert stored.outcome == OUTCOME
    assert stored.provenance == {"run": "run-1", "attempt": "a1"}
    assert stored.commit.epoch == 2
    assert [file.path for file in stored.files] == ["part.tar", "rows/part.parquet"]
    assert owner_of(stored.commit.attempt) == "run-1-a1"
    found = ledger.to_record(stored, shard="images-00007", reused=True)
    assert (found.shard, found.fingerprint, found.reused, found.outcome) == ("images-00007", SHARD, True, OUTCOME)
    assert (found.path / "rows/part.parquet").read_bytes() == b"rows"


def test_the_record_is_where_the_layout_puts_it(ledger: ShardLedger) -> None:
    stored = record(ledger)
    data = json.loads(ledger.store.get(f"shards/curate/cd/{SHARD}.json") or b"")
    assert data["attempt"] == stored.commit.attempt
    assert [file["path"] for file in data["files"]] == ["part.tar", "rows/part.parquet"]
    assert stored.key_of("part.tar") == f"shards/curate/cd/{SHARD}/{stored.commit.attempt}/data/part.tar"
    assert ledger.store.get(stored.key_of("part.tar")) == b"content"


def test_the_first_record_wins_and_the_second_leaves_no_files(ledger: ShardLedger) -> None:
    first = record(ledger, b"first")
    assert record(ledger, b"second") == first
    data = [item.key for item in ledger.store.list(f"shards/curate/cd/{SHARD}") if "/data/" in item.key]
    assert data == [first.key_of("part.tar"), first.key_of("rows/part.parquet")]


def test_recording_twice_through_one_output_gives_the_same_shard(ledger: ShardLedger) -> None:
    output = ledger.new_output(ArtifactKey("curate", SHARD), owner="a")
    (output.data / "part.tar").write_bytes(b"content")
    stored = ledger.record(output, OUTCOME, provenance={})
    assert ledger.record(output, OUTCOME, provenance={}) == stored


def test_an_aborted_output_cannot_be_recorded(ledger: ShardLedger) -> None:
    output = ledger.new_output(ArtifactKey("curate", SHARD), owner="a")
    (output.data / "part.tar").write_bytes(b"content")
    ledger.abort(output, reason="its worker died")
    assert not output.data.exists()
    with pytest.raises(StoreError, match=r"aborted before it could commit \(its worker died\)"):
        ledger.record(output, OUTCOME, provenance={})
    assert ledger.find(ArtifactKey("curate", SHARD)) is None


@pytest.mark.parametrize("damage", ["cut", "delete"])
def test_a_shard_with_missing_or_cut_files_counts_as_absent_and_is_replaced(local: ShardLedger, damage: str) -> None:
    first = record(local)
    path = local.fetch(first) / "part.tar"
    path.chmod(0o644)
    path.write_bytes(b"cont")
    if damage == "delete":
        path.unlink()
    before = local.store.get(shard_site(ArtifactKey("curate", SHARD)).commit_key(0))
    assert local.find(ArtifactKey("curate", SHARD)) is None
    again = record(local)
    assert (again.commit.generation, again.files) == (1, first.files)
    assert local.find(ArtifactKey("curate", SHARD)) == again
    assert local.store.get(f"shards/curate/cd/{SHARD}.1.json") is not None
    assert local.store.get(shard_site(ArtifactKey("curate", SHARD)).commit_key(0)) == before


def test_a_flipped_byte_is_found_by_verify_and_healed(local: ShardLedger) -> None:
    path = local.fetch(record(local)) / "part.tar"
    path.chmod(0o644)
    path.write_bytes(b"c0ntent")
    assert local.find(ArtifactKey("curate", SHARD)) is not None
    problems = local.verify(ArtifactKey("curate", SHARD))
    assert [problem.path for problem in problems] == ["part.tar"]
    assert local.heal(ArtifactKey("curate", SHARD)) == problems
    assert local.find(ArtifactKey("curate", SHARD)) is None
    assert record(local).commit.generation == 1
    assert local.heal(ArtifactKey("curate", SHARD)) == []


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b'{"format":1,"attempt":"a"',
        b'{"format":1,"attempt":"a","epoch":0}',
        b'{"format":1,"attempt":"a","epoch":0,"files":[{"path":"/etc/passwd","bytes":1,"sha256":"x"}],"outcome":{}}',
        b'{"format":1,"attempt":"a","epoch":0,"files":[],"outcome":{"rows":"3","quarantined":[],"stats":{}}}',
        b'{"format":1,"attempt":"a","epoch":0,"files":[],"outcome":{"rows":3,"quarantined":[1],"stats":{}}}',
    ],
)
def test_junk_in_place_of_a_record_counts_as_absent_and_is_replaced(ledger: ShardLedger, junk: bytes) -> None:
    ledger.store.put_new(f"shards/curate/cd/{SHARD}.json", junk)
    assert ledger.find(ArtifactKey("curate", SHARD)) is None
    assert len(ledger.verify(ArtifactKey("curate", SHARD))) == 1
    assert list(ledger.all()) == []
    assert record(ledger).commit.generation == 1
    assert ledger.verify(ArtifactKey("curate", SHARD)) == []


def test_a_crash_between_outcome_and_record_is_finished_by_the_next_reader(ledger: ShardLedger) -> None:
    stored = record(ledger)
    ledger.store.delete(f"shards/curate/cd/{SHARD}.json")  # as if never written
    assert ledger.find(ArtifactKey("curate", SHARD)) == stored


def test_many_are_found_at_once_and_listed(ledger: ShardLedger) -> None:
    stored = record(ledger)
    wanted = [f"{number:02x}" * 32 for number in range(20)]
    assert ledger.find_many("curate", [*wanted, SHARD, SHARD]) == {SHARD: stored}
    assert list(ledger.all()) == [stored]


def test_a_worker_in_another_process_can_record(local: ShardLedger) -> None:
    assert record(pickle.loads(pickle.dumps(local))) == local.find(ArtifactKey("curate", SHARD))  # noqa: S301 - our own bytes


def test_non_finite_metrics_survive(ledger: ShardLedger) -> None:
    record(ledger, outcome=ShardOutcome(rows=0, metrics={"a": math.nan, "b": -math.inf}))
    found = ledger.find(ArtifactKey("curate", SHARD))
    assert found is not None
    assert math.isnan(found.outcome.metrics["a"])
    assert found.outcome.metrics["b"] == -math.inf


def test_the_files_of_a_shard_are_downloaded_where_and_when_they_are_read(tmp_path: Path) -> None:
    store = MemoryStore()
    stored = record(ShardLedger(store, tmp_path / "maker"))
    elsewhere = ShardLedger(store, tmp_path / "cache")
    found = elsewhere.to_record(stored, shard="s", reused=True)
    assert not (tmp_path / "cache").exists()
    assert found.place == tmp_path / "cache" / stored.data_key
    assert found.file("rows/part.parquet").read_bytes() == b"rows"
    assert [path.name for path in found.place.rglob("*") if path.is_file()] == ["part.parquet"]
    assert (found.path / "part.tar").read_bytes() == b"content"
    assert found.path == found.place
    again = pickle.loads(pickle.dumps(found.folder))  # noqa: S301 - our own bytes
    assert again.fetch() == found.place


def group(ledger: ShardLedger, names: list[str]) -> list[tuple[AttemptFolder, ShardOutcome]]:
    made = []
    for name in names:
        output = ledger.new_output(ArtifactKey("curate", name), owner="run-1-a1", in_group=True)
        (output.data / "part.tar").write_bytes(name.encode())
        made.append((output, OUTCOME))
    return made


def test_a_group_is_recorded_as_each_alone_would_be(ledger: ShardLedger) -> None:
    names = [f"{number:02}" * 32 for number in range(6)]
    first = record(ledger, b"first")  # of one shard of the group
    finished = group(ledger, [*names, SHARD])
    ledger.abort(finished[1][0], reason="its worker died")
    (finished[3][0].data / "link").symlink_to("/etc/passwd")
    found = ledger.record_all(finished, provenance={"run": "run-1"}, epoch=2)
    assert [type(entry).__name__ for entry in found] == [
        "StoredShard",
        "FencedError",
        "StoredShard",
        "StoreError",
        *["StoredShard"] * 3,
    ]
    assert found[-1] == first
    stored = {entry.key.fingerprint: entry.without_bytes() for entry in found if isinstance(entry, StoredShard)}
    assert {name: ledger.find(ArtifactKey("curate", name)) for name in stored} == stored
    assert ledger.store.get(stored[names[0]].key_of("part.tar")) == names[0].encode()
    assert all(ledger.verify(ArtifactKey("curate", name)) == [] for name in stored)
    assert ledger.record_all([], provenance={}) == []


def test_an_outcome_that_is_no_json_is_the_error_of_its_shard(ledger: ShardLedger) -> None:
    finished = group(ledger, ["01" * 32, "02" * 32, "03" * 32])
    finished[1] = (finished[1][0], ShardOutcome(rows=1, result={1: "x"}))  # type: ignore[dict-item]  # the mistake
    kinds = [type(entry).__name__ for entry in ledger.record_all(finished, provenance={})]
    assert kinds == ["StoredShard", "TypeError", "StoredShard"]


def test_in_a_bucket_that_keeps_versions_what_is_deleted_is_missing_and_is_made_again(
    s3_store: ObjectStore, tmp_path: Path
) -> None:
    api = s3_store.s3
    assert api is not None
    api.client.put_bucket_versioning(Bucket=api.bucket, VersioningConfiguration={"Status": "Enabled"})
    ledger, key = ShardLedger(s3_store, tmp_path / "cache"), ArtifactKey("curate", SHARD)
    first = record(ledger)
    s3_store.delete(first.key_of("part.tar"))
    assert [(problem.path, problem.found) for problem in ledger.verify(key)] == [("part.tar", "no file")]
    assert ledger.find(key) is None
    second = record(ledger, b"content")
    assert ledger.find(key) == second
    assert second.commit.generation == 1
    assert ledger.verify(key) == []
    assert delete_attempt(s3_store, shard_site(key), first.commit.attempt).bytes == len(b"rows")
    assert ledger.verify(key) == []
