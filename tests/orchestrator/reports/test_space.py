"""The space of a store: what belongs to what, and files with two names."""

from pathlib import Path

from orchestrator.history.database.database import Database
from orchestrator.reports.space import measure_space, totals_by
from orchestrator.store.store import open_store
from tests.orchestrator.conftest import MemoryStore

FINGERPRINT = "ab" + "0" * 62
FOLDER = f"artifacts/learn/ab/{FINGERPRINT}"


def test_each_object_counts_for_what_it_belongs_to(tmp_path: Path) -> None:
    store = MemoryStore()
    for key, size in {
        f"{FOLDER}/COMMIT": 5,
        f"{FOLDER}/attempts/a/data/model": 100,
        f"{FOLDER}/checkpoints/000000000030/COMMIT": 1,
        f"{FOLDER}/checkpoints/000000000030/attempts/a/data/weights": 40,
        f"{FOLDER}/checkpoints/000000000060/attempts/a/data/weights": 50,
        f"shards/draw/cd/cd{'0' * 62}.json": 7,
        "runs/r1/RUN.json": 3,
        "plans/p.json": 4,
    }.items():
        store.put_new(key, b"x" * size)
    spaces = measure_space(store, Database(str(tmp_path / "index.db")))
    found = {(space.what, space.stage_kind, space.step): (space.files, space.bytes) for space in spaces}
    assert found == {
        ("artifact", "learn", None): (2, 105),
        ("checkpoint", "learn", 30): (2, 41),
        ("checkpoint", "learn", 60): (1, 50),
        ("shard", "draw", None): (1, 7),
        ("record", "", None): (2, 7),
    }
    assert list(totals_by(spaces, "what")) == [
        (("artifact",), 105),
        (("checkpoint",), 91),
        (("record",), 7),
        (("shard",), 7),
    ]


def test_a_file_with_two_names_is_counted_once_for_the_artifact(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"x" * 1000)
    shard = f"shards/draw/cd/cd{'0' * 62}/a/data/file"
    store.upload(tmp_path / "file", shard)
    store.link(shard, f"{FOLDER}/attempts/a/data/file")
    spaces = measure_space(store, Database(str(tmp_path / "index.db")))
    assert {space.what: (space.files, space.bytes) for space in spaces} == {"artifact": (1, 1000), "shard": (1, 0)}
