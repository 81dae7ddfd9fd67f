"""Two datasets compared: against plain counting, over any sharding, and as a page that is safe to open."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipelines.audit.diff import DatasetDiff, DiffSide, diff_datasets
from data_pipelines.audit.diff_report import dataset_diff_html, dataset_diff_lines, dataset_diff_to_json
from data_pipelines.audit.summary import printable
from data_pipelines.audit.thumbnails import derive_thumbnails
from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import LEDGER_SCHEMA, emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.datasets.reader import DatasetError
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.world import generate_world
from tests.pages import ATTACKS, PAYLOADS, assert_only_text_and_images

Row = tuple[str, str, str]  # sample id, verdict, reason


def hand_made(
    folder: Path, shards: Sequence[Sequence[Row]], caption: str = "a cat", source_file: str = "a.jsonl"
) -> DiffSide:
    """A dataset of ledgers alone, which has no thumbnails."""
    ledgers = {}
    (folder / "ledger").mkdir(parents=True)
    for number, rows in enumerate(shards):
        listed = [
            {"sample_id": sample_id, "verdict": verdict, "reason": reason or None, "caption": caption,
             "source_file": source_file, "source_row": place}
            for place, (sample_id, verdict, reason) in enumerate(rows)
        ]  # fmt: skip
        path = folder / "ledger" / f"s{number}.parquet"
        pq.write_table(pa.Table.from_pylist(listed, schema=LEDGER_SCHEMA), path)
        ledgers[path.stem] = hashlib.sha256(path.read_bytes()).hexdigest()
    every = [row for rows in shards for row in rows]
    fields: dict[str, Any] = {
        "format": 1,
        "name": "d",
        "anchors": [[1, 1]],
        "shards": sorted(ledgers),
        "rows": len(every),
        "counts": Counter(verdict for _, verdict, _ in every),
        "reasons": Counter(reason for _, _, reason in every if reason),
    }
    (folder / "dataset.json").write_text(json.dumps(fields))
    return DiffSide(folder=folder, ledgers=ledgers)


def counted(diff: DatasetDiff) -> dict[tuple[str | None, str | None], int]:
    return {(change.before, change.after): change.records for change in diff.transitions}


def plainly_counted(before: Sequence[Row], after: Sequence[Row]) -> tuple[int, int, int]:
    """The numbers of records added, removed, and with a changed verdict."""
    old, new = Counter(before), Counter(after)
    gone, come = (Counter({i: 0}) for i in ("", ""))
    for (sample_id, *_), number in (old - new).items():
        gone[sample_id] += number
    for (sample_id, *_), number in (new - old).items():
        come[sample_id] += number
    both = (gone & come).total()
    return come.total() - both, gone.total() - both, both


# ids that share their first 8 bytes, their first 31, or nothing
IDS = ["00" * 31 + "01", "00" * 31 + "02", "00" * 8 + "ff" * 24, "80" + "00" * 31, "ff" * 32, "ab" * 32, "Ab" * 32]
ROWS = st.tuples(
    st.sampled_from(IDS),
    st.sampled_from(["keep", "drop", "duplicate"]),
    st.sampled_from(["", "small", "blank"]),
)
SHARDS = st.lists(st.lists(ROWS, max_size=6), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(common=SHARDS, before=SHARDS, after=SHARDS, rows_per_part=st.sampled_from([1, 3, 1000]))
def test_the_counts_are_those_of_plain_counting_however_much_is_left_unread(
    tmp_path_factory: pytest.TempPathFactory,
    common: list[list[Row]],
    before: list[list[Row]],
    after: list[list[Row]],
    rows_per_part: int,
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    old, new = hand_made(folder / "a", common + before), hand_made(folder / "b", common + after)
    found = diff_datasets(old, new, rows_per_part=rows_per_part)
    plain = [[(i.lower(), verdict, why) for rows in side for i, verdict, why in rows] for side in (before, after)]
    assert (found.added, found.removed, found.changed) == plainly_counted(*plain)
    assert found.equal_shards >= len(common)
    everything = diff_datasets(DiffSide(folder=old.folder), DiffSide(folder=new.folder))
    assert everything.equal_shards == 0
    assert counted(everything) == counted(found)


def test_a_threshold_that_moved_shows_as_verdicts_that_changed(tmp_path: Path) -> None:
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(40)]
    before = hand_made(tmp_path / "a", [[(sample_id, "keep", "") for sample_id in ids[:30]]])
    after = hand_made(tmp_path / "b", [[(sample_id, *(("drop", "small") if sample_id in ids[:5] else ("keep", "")))
                                        for sample_id in ids[2:]]])  # fmt: skip
    diff = diff_datasets(before, after, examples=2)
    assert counted(diff) == {(None, "keep"): 10, ("keep", "drop: small"): 3, ("keep", None): 2}
    assert [len(change.examples) for change in diff.transitions] == [2, 2, 2]
    changed = diff.transitions[1].examples[0]
    assert changed.sample_id in ids[2:5]
    assert changed.before is not None
    assert changed.after is not None
    assert diff.transitions[0].examples[0].before is None
    text = "\n".join(dataset_diff_lines(diff))
    assert "30 -> 38 records, 30 -> 35 kept" in text
    assert "10 added, 2 removed, 3 with a changed verdict" in text
    assert "keep -> drop: small: 3" in text
    assert dataset_diff_to_json(diff)["reasons"] == {"small": [0, 3]}
    json.dumps(dataset_diff_to_json(diff))


def test_the_same_records_in_other_shards_are_no_difference(tmp_path: Path) -> None:
    rows = [(hashlib.sha256(bytes([number])).hexdigest(), "keep", "") for number in range(30)]
    before = hand_made(tmp_path / "a", [rows[:10], rows[10:]])
    after = hand_made(tmp_path / "b", [rows[20:], rows[:5], rows[5:20]])
    diff = diff_datasets(before, after)
    assert diff.transitions == ()
    assert (diff.shards, diff.equal_shards) == ((2, 3), 0)


def test_an_equal_ledger_is_not_opened(tmp_path: Path) -> None:
    rows = [[("ab" * 32, "keep", "")], [("cd" * 32, "keep", "")]]
    before, after = hand_made(tmp_path / "a", rows), hand_made(tmp_path / "b", [rows[0], []])
    (before.folder / "ledger" / "s0.parquet").write_bytes(b"damaged")
    assert counted(diff_datasets(before, after)) == {("keep", None): 1}


@pytest.mark.parametrize(("file", "content"), [("ledger/s0.parquet", b"PAR1"), ("dataset.json", b'{"format": 2}')])
def test_a_damaged_dataset_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    before, after = (hand_made(tmp_path / side, [[("ab" * 32, "keep", "")]]) for side in "ab")
    (after.folder / file).write_bytes(content)
    with pytest.raises(DatasetError, match=f"b/{file}"):
        diff_datasets(before, DiffSide(folder=after.folder))


def test_an_id_that_is_no_digest_is_named(tmp_path: Path) -> None:
    before, after = (hand_made(tmp_path / side, [[(one * 32, "keep", "")]]) for side, one in (("a", "zz"), ("b", "ab")))
    with pytest.raises(DatasetError, match=r"a/ledger/s0.parquet.*a sample_id is not 64 hexadecimal digits"):
        diff_datasets(before, after)


@settings(max_examples=8, deadline=None)
@given(PAYLOADS)
@example("".join(ATTACKS))
def test_hostile_values_stay_text_in_the_part_of_a_page(tmp_path_factory: pytest.TempPathFactory, payload: str) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    before = hand_made(folder / "a", [[("ab" * 32, "keep", "")]], caption=payload, source_file=payload)
    after = hand_made(folder / "b", [[("ab" * 32, "drop", payload)]], caption=payload, source_file=payload)
    diff = diff_datasets(before, after)
    page = assert_only_text_and_images(dataset_diff_html(diff, before, after))
    assert f"keep -> drop: {printable(payload)}: 1" in page.words
    assert f"{printable(payload)}, row 0" in page.words
    assert "no image" in page.words
    assert all(line.isprintable() for line in dataset_diff_lines(diff))


def test_images_of_changed_records_come_from_thumbnails_and_shards(tmp_path: Path) -> None:
    sides = []
    for min_side in (24, 60):
        folder, view = curated(tmp_path, f"side{min_side}", min_side), tmp_path / f"view{min_side}"
        derive_thumbnails(folder, [tmp_path / "records"], view)
        sides.append(DiffSide(folder=folder, thumbnails=view))
    diff = diff_datasets(*sides, examples=40)
    assert 0 < diff.changed == sum(change.records for change in diff.transitions)
    shown = sum(len(change.examples) for change in diff.transitions)
    page = dataset_diff_html(diff, *sides)
    images = re.findall(r'src="data:image/jpeg;base64,', page)
    assert len(images) == shown
    assert "no image" not in page


def curated(folder: Path, name: str, min_side: int) -> Path:
    """Drawn images of two sizes, curated with a limit that may leave out the smaller ones."""
    if not (folder / "records").exists():
        world = ShapesConfig(
            seed=5, understanding=10, generation=10, editing=0, text=0, lines_per_file=10,
            image_sizes=((64, 64), (48, 96)),
        )  # fmt: skip
        generate_world(folder, world)
        ingesting = IngestConfig(source="shapes")
        images = open_images(sorted((folder / "images").iterdir()), max_bytes=1 << 24, max_unpacked_bytes=1 << 30)
        for shard in plan_ingest(ingesting, [folder / "annotations"]):
            ingest_shard(shard, folder / "records", ingesting, images=images)
    config = CurationConfig(anchors=((64, 64), (48, 96)), min_side=min_side)
    names, output = record_shards(folder / "records"), folder / name
    for shard_name in names:
        measure_shard(folder / "records", shard_name, output, decode_limits(config))
        judge_shard(folder / "records", output, shard_name, output, config)
    copies = find_duplicates({shard: output / "analysis" / f"{shard}.parquet" for shard in names}, config)
    for shard in names:
        emit_shard(folder / "records", output, shard, output, copies=copies[shard])
    write_dataset(output, name, {shard: output / "ledger" / f"{shard}.parquet" for shard in names}, config)
    return output
