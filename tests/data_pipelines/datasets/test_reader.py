"""Curated datasets are read sample by sample, and damage is named."""

import contextlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError, parse_sample


@pytest.fixture(scope="module")
def made(make_dataset: Callable[..., Any]) -> Any:
    return make_dataset(30, name="r")


@pytest.fixture
def copied(made: Any, tmp_path: Path) -> CuratedDataset:
    return CuratedDataset(Path(shutil.copytree(made.dataset, tmp_path / "copy")))


def test_samples_come_back_with_and_without_their_images(made: Any) -> None:
    dataset = CuratedDataset(made.dataset)
    assert dataset.shards == ("r-00000", "r-00001")
    ids = []
    for shard in dataset.shards:
        rows = dataset.rows(shard)
        for sample, stored in zip(dataset.samples(shard, rows), dataset.stored_samples(shard, rows), strict=True):
            assert stored.sample == sample
            wanted = made.samples[len(ids)]
            assert (sample.task, tuple(turn.text for turn in sample.turns)) == (wanted.task, wanted.turns)
            assert [image.anchor for image in sample.images] == list(wanted.anchors)
            assert all(stored.image_bytes(slot).startswith(b"\x89PNG") for slot in range(len(sample.images)))
            ids.append(sample.sample_id)
    assert ids == made.ids


def test_rows_are_chosen_by_split_and_task(make_dataset: Callable[..., Any], wanted: Callable[..., Any]) -> None:
    made = make_dataset(
        [
            wanted(task="text", turns=("a", "b")),
            wanted(task="text", turns=("a", "b"), split="val"),
            wanted(task="text", turns=("a", "b"), verdict="drop"),
            wanted(task="understanding", turns=("<image>", "b"), anchors=((64, 64),)),
        ],
        name="chosen",
    )
    dataset = CuratedDataset(made.dataset)

    def ids(**chosen: Any) -> list[int]:
        return [made.ids.index(row.tobytes().hex()) for row in dataset.rows("chosen-00000", **chosen).ids]

    assert ids() == [0, 1, 3]
    assert ids(split="train") == [0, 3]
    assert ids(tasks=("text",)) == [0, 1]
    assert ids(split="val", tasks=("understanding",)) == []


def test_a_long_conversation_is_read_whole(make_dataset: Callable[..., Any], wanted: Callable[..., Any]) -> None:
    made = make_dataset([wanted(task="text", turns=("ä" * 20_000, "b"))], name="long")
    dataset = CuratedDataset(made.dataset)
    (sample,) = dataset.samples("long-00000", dataset.rows("long-00000"))
    assert len(sample.turns[0].text) == 20_000


def test_a_shard_that_ends_early_is_an_error_and_not_the_end(copied: CuratedDataset) -> None:
    shard = copied.shards[0]
    rows = copied.rows(shard)
    path = copied.tar_path(shard)
    path.write_bytes(path.read_bytes()[: int(rows.offsets[10]) + 100])
    assert copied.read(shard, int(rows.offsets[9]), int(rows.spans[9])).sample.task == "understanding"
    with pytest.raises(SampleError, match="bytes early; the shard is damaged"):
        list(copied.samples(shard, rows))
    path.unlink()
    with pytest.raises(DatasetError, match=f"no such shard on node {socket.gethostname()}"):
        list(copied.samples(shard, rows))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_harmless(made: Any, copied: CuratedDataset, data: st.DataObject) -> None:
    shard = copied.shards[0]
    rows = copied.rows(shard)
    index = data.draw(st.integers(0, 7))
    offset, span = int(rows.offsets[index]), int(rows.spans[index])
    content = bytearray((made.dataset / "shards" / f"{shard}.tar").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[offset + data.draw(st.integers(0, min(span, 3000) - 1))] = data.draw(st.integers(0, 255))
    copied.tar_path(shard).write_bytes(content)
    for read in (copied.read, copied.read_sample):
        with contextlib.suppress(SampleError):
            assert read(shard, offset, span)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "not a dataset.json"),
        ("[]", "not a dataset.json"),
        ('{"format": 2}', "format 2, expected 1"),
        ('{"format": 1, "shards": 3}', "not a dataset.json"),
        ('{"format": 1, "shards": []}', "not a dataset.json"),
    ],
)
def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        CuratedDataset(tmp_path)


def test_a_damaged_ledger_is_named(copied: CuratedDataset) -> None:
    path = copied.folder / "ledger" / f"{copied.shards[0]}.parquet"
    good = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError, match="not a ledger"):
        copied.rows(copied.shards[0])
    pq.write_table(good.drop_columns(["span_bytes"]), path)
    with pytest.raises(DatasetError, match="not a ledger"):
        copied.rows(copied.shards[0])
    pq.write_table(good.set_column(0, "sample_id", pa.array(["zz"] * len(good))), path)
    with pytest.raises(DatasetError, match="not a ledger"):
        copied.rows(copied.shards[0])


GOOD = {"sample_id": "a" * 64, "task": "text", "conversations": [{"role": "human", "text": "x"}], "images": []}


@pytest.mark.parametrize(
    "change",
    [
        {"sample_id": "A" * 64},
        {"sample_id": 3},
        {"conversations": None},
        {"conversations": [{"role": "human"}]},
        {"images": [{"width": "wide"}]},
        {"images": [{"member": "a", "sha256": "b", "width": 1, "height": 1, "anchor": [1]}]},
        {"conversations": [{"role": "system", "text": "x"}]},
        {"conversations": [{"role": "human", "text": 3}]},
        {"task": None},
    ],
)
def test_a_json_member_that_is_no_sample_is_named(change: dict[str, Any]) -> None:
    assert parse_sample(json.dumps(GOOD).encode(), "here").task == "text"
    with pytest.raises(SampleError, match=r"^here: "):
        parse_sample(json.dumps(GOOD | change).encode(), "here")
