"""An evaluation set that is added later changes only the shards that contain its images."""

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests.end_to_end.desk import Desk
from tests.end_to_end.test_user_files import line, picture

pytestmark = pytest.mark.ray

RECIPE = """\
name: checked
stages:
  pairs:
    kind: ingest
    config: {read: {source: pairs}, paths: [annotations], images: [pictures]}
  benchmark:
    kind: ingest
    config: {read: {source: blocks-benchmark}, paths: [benchmark.jsonl], images: [pictures]}
  curated:
    kind: curate
    inputs: {records: [pairs]}
    config: {anchors: [[48, 48]], min_side: 32}
    gates: {reason/contaminated_share: {at_most: 0.0, severity: warning}, evaluation_unread: {at_most: 0}}
"""
WITH_SET = RECIPE.replace("{records: [pairs]}", "{records: [pairs], evaluation: [benchmark]}")


def mirrored_jpeg(data: bytes) -> bytes:
    file = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(data))).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Three files of six lines; b2 shows the same image as the benchmark's e0, and b4 is e1 mirrored."""
    folder = tmp_path_factory.mktemp("checked")
    for name in ("annotations", "pictures"):
        (folder / name).mkdir()
    pictures = {f"{name}{number}.png": picture(f"{name}{number}") for name in "abce" for number in range(6)}
    pictures |= {"b2.png": pictures["e0.png"], "b4.png": mirrored_jpeg(pictures["e1.png"])}
    for file, data in pictures.items():
        (folder / "pictures" / file).write_bytes(data)
    for name in "abc":
        texts = [line(f"{name}{number}.png", f"Blocks of the series {name}, number {number}.") for number in range(6)]
        (folder / "annotations" / f"{name}.jsonl").write_text("\n".join(texts))
    asked = [{**json.loads(line(f"e{number}.png", f"Answer {number}.")), "id": f"q{number}"} for number in range(3)]
    (folder / "benchmark.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "checked.yaml").write_text(RECIPE)
    return Desk(folder=folder, environment={"ILLUME_TRACKING": "none"})


def ledger(desk: Desk, fingerprint: str) -> list[dict[str, Any]]:
    stored = desk.artifacts()[fingerprint]
    folder = desk.store / "artifacts" / "curate"
    files = [file for file in folder.rglob("ledger/*.parquet") if stored.commit.attempt in file.parts]
    return [row for file in sorted(files) for row in pq.read_table(file).to_pylist()]


def test_images_of_an_evaluation_set_are_dropped_from_the_shards_that_contain_them(desk: Desk) -> None:
    desk.illume("run", "checked.yaml")
    before = desk.plan("checked.yaml")["curated"]["fingerprint"]
    assert {row["verdict"] for row in ledger(desk, before)} == {"keep"}
    shards = desk.shard_records("curate")

    (desk.folder / "checked.yaml").write_text(WITH_SET)
    assert desk.actions("checked.yaml") == {"pairs": "reuse", "benchmark": "reuse", "curated": "run"}
    desk.illume("run", "checked.yaml")
    after = desk.plan("checked.yaml")["curated"]["fingerprint"]
    dropped = {row["image_names"][0]: row for row in ledger(desk, after) if row["verdict"] != "keep"}
    assert {(row["verdict"], row["reason"]) for row in dropped.values()} == {("drop", "contaminated")}
    assert {name: row["detail"].partition(" (")[0] for name, row in dropped.items()} == {
        "b2.png": "the same file as in sample 'q0' of the evaluation set 'blocks-benchmark'",
        "b4.png": "looks like a mirrored picture of sample 'q1' of the evaluation set 'blocks-benchmark'",
    }
    assert len(desk.shard_records("curate") - shards) == 3  # the set was measured and judged, one shard written anew
    old, new = (desk.digests()["curate", fingerprint] for fingerprint in (before, after))
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {"dataset.json", "shards/b.tar", "ledger/b.parquet"}

    metrics = desk.artifacts()[after].manifest.metrics
    assert (metrics["reason/contaminated_share"], metrics["evaluation_images"], metrics["evaluation_unread"]) == (
        2 / 18,
        3,
        0,
    )
    warned = [event for event in desk.events("checked") if "reason/contaminated_share" in json.dumps(event)]
    assert warned
