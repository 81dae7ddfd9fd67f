"""Small images of matched rows: of kept samples from the dataset, of others from the ingested records."""

from pathlib import Path

import pyarrow.parquet as pq

from data_pipelines.provenance.match_images import match_captions, match_images
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import find_samples
from tests.data_pipelines.audit import conftest

dataset = conftest.dataset


def test_images_of_kept_and_of_dropped_rows_are_found(dataset: Path) -> None:
    rows = [row for path in sorted((dataset / "ledger").iterdir()) for row in pq.read_table(path).to_pylist()]
    kept = next(row for row in rows if row["verdict"] == "keep" and row["images"])
    dropped = next(row for row in rows if row["verdict"] in ("duplicate", "near_duplicate") and row["images"])
    text = next((row for row in rows if not row["images"]), None)
    ids = {row["sample_id"] for row in (kept, dropped, text) if row}
    matches = list(find_samples(dataset, Questions(digests=ids)))
    assert {match.sample_id for match in matches} == ids
    both = match_images(dataset, [dataset.parent / "records"], matches)
    assert {kept["sample_id"], dropped["sample_id"]} <= both.keys()
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in both.values())
    captions = match_captions(dataset, matches)
    assert captions == {row["sample_id"]: row["caption"] for row in rows if row["sample_id"] in ids and row["caption"]}
    assert captions
    without_records = match_images(dataset, [], matches)
    assert (kept["sample_id"] in without_records, dropped["sample_id"] in without_records) == (True, False)
