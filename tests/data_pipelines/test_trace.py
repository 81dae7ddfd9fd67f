"""Rows of ledgers and token files that answer a question about a sample or a picture."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.dataset_reader import CuratedDataset, DatasetError
from data_pipelines.trace import Questions, find_samples, find_tokens
from tests.data_pipelines.conftest import MakeDataset
from tests.data_pipelines.tiny_run import TinyRun


@pytest.fixture(scope="module")
def kept(tiny_run: TinyRun) -> list[dict[str, object]]:
    """Rows of kept samples with a picture."""
    rows = [row for path in sorted((tiny_run.dataset / "ledger").iterdir()) for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["verdict"] == "keep" and row["images"]]


def found(dataset: Path, *texts: str) -> set[tuple[str, str]]:
    questions = Questions()
    for text in texts:
        questions.add(text)
    return {(match.sample_id, match.found_by) for match in find_samples(dataset, questions)}


def test_a_sample_is_found_by_its_id_its_picture_and_its_name(tiny_run: TinyRun, kept: list[dict[str, object]]) -> None:
    row = kept[3]
    sample_id, picture = str(row["sample_id"]), str(row["images"][0])  # type: ignore[index]  # a list
    assert found(tiny_run.dataset, sample_id) == {(sample_id, "sample id")}
    assert (sample_id, "picture") in found(tiny_run.dataset, picture.upper())
    assert found(tiny_run.dataset, str(row["external_id"])) == {(sample_id, "source's id")}
    assert found(tiny_run.dataset, "0" * 64, "nobody") == set()
    (match,) = find_samples(tiny_run.dataset, Questions(digests={sample_id}))
    assert (match.source_file, match.source_row, match.verdict) == (row["source_file"], row["source_row"], "keep")


def test_a_picture_file_finds_itself_and_what_looks_like_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    dataset = CuratedDataset(tiny_run.dataset)
    shard = next(name for name in dataset.shards if len(dataset.rows(name, tasks=("generation",)).ids))
    stored = next(dataset.stored_samples(shard, dataset.rows(shard, tasks=("generation",))))
    exact, smaller = tmp_path / "exact.png", tmp_path / "smaller.png"
    exact.write_bytes(stored.image_bytes(0))
    with Image.open(io.BytesIO(stored.image_bytes(0))) as picture:
        picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(smaller)
    for path, near, expected in ((exact, 0, "picture"), (smaller, 12, "looks like")):
        questions = Questions(near=near)
        questions.add_picture(path)
        ways = {match.sample_id: match.found_by for match in find_samples(tiny_run.dataset, questions)}
        assert ways[stored.sample.sample_id].startswith(expected)


def test_rows_of_codes_are_named(make_dataset: MakeDataset) -> None:
    made = make_dataset(12)
    ids = [sample_id for sample_id, wanted in zip(made.ids, made.samples, strict=True) if wanted.task == "editing"]
    rows = list(find_tokens(made.tokens, ids[:1]))
    assert [(row.sample_id, row.slot) for row in rows] == [(ids[0], 0), (ids[0], 1)]
    assert rows[1].row == rows[0].row + 1


def test_what_is_no_picture_and_what_is_no_dataset_say_so(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"fake\.png: not_an_image"):
        Questions().add_picture(tmp_path / "fake.png")
    with pytest.raises(DatasetError, match="expected the folder of a curated dataset"):
        list(find_samples(tmp_path, Questions()))
