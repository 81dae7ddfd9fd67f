"""The mapped index of images holds what lists of Python objects held: the same images, groups, order and digest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.config import LoadingError
from data_pipelines.training_data.image_index import (
    META_FILE,
    ImageIndex,
    ImageSelection,
    make_image_index,
    merge_images,
    open_image_index,
    shard_images,
)
from data_pipelines.training_data.sources import SourceFolders
from tests.data_pipelines.conftest import MadeDataset, MakeDataset, Wanted

Found = tuple[int, str, int, int, str]  # dataset, shard, offset, span, image


def listed(
    datasets: Sequence[CuratedDataset], selection: ImageSelection, usable: set[str] | None
) -> tuple[dict[tuple[int, int], list[Found]], str]:
    """The images by anchor, and their digest, found row by row."""
    by_anchor: dict[tuple[int, int], list[Found]] = {}
    digest, seen = hashlib.sha256(), set[str]()
    for number, dataset in enumerate(datasets):
        for shard in dataset.shards:
            for row in pq.read_table(dataset.folder / "ledger" / f"{shard}.parquet").to_pylist():
                is_chosen = row["verdict"] == "keep" and row["split"] == selection.split
                is_chosen &= selection.tasks is None or row["task"] in selection.tasks
                is_chosen &= usable is None or row["sample_id"] in usable
                if not is_chosen or not row["images"] or not row["anchor_h"] or row["images"][0] in seen:
                    continue
                seen.add(row["images"][0])
                digest.update(row["images"][0].encode())
                found = (number, shard, row["offset"], row["span_bytes"], row["images"][0])
                by_anchor.setdefault((row["anchor_h"], row["anchor_w"]), []).append(found)
    return by_anchor, digest.hexdigest()


def in_columns(index: ImageIndex) -> dict[tuple[int, int], list[Found]]:
    return {
        group.anchor: [
            (
                *index.shards[group.shards[at]],
                int(group.offsets[at]),
                int(group.spans[at]),
                group.images[at].tobytes().hex(),
            )
            for at in range(len(group))
        ]
        for group in index.groups
    }


@pytest.fixture(scope="module")
def made(make_dataset: MakeDataset) -> list[MadeDataset]:
    """Two datasets that share images, some of them several times, under several anchors."""
    asked = [
        Wanted(
            task=("understanding", "generation", "editing")[number % 3],
            turns=("<image>\nWhat?", f"answer {number}"),
            anchors=(((64, 64),), ((64, 128),), ())[number * 7 % 5 % 3],
            image=number * number % 17,
            split="val" if number % 7 == 0 else "train",
            verdict="drop" if number % 11 == 0 else "keep",
        )
        for number in range(60)
    ]
    return [make_dataset(asked[:35], name="a", per_shard=9), make_dataset(asked[35:], name="b", per_shard=9)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    split=st.sampled_from(["train", "val"]),
    tasks=st.sampled_from([None, ("generation",), ("understanding", "editing")]),
    every=st.integers(1, 3),
)
def test_columns_hold_what_lists_held(
    made: list[MadeDataset],
    tmp_path_factory: pytest.TempPathFactory,
    split: str,
    tasks: tuple[str, ...] | None,
    every: int,
) -> None:
    datasets = [CuratedDataset(found.dataset) for found in made]
    selection = ImageSelection(split=split, tasks=tasks)
    usable = None if every == 1 else {sample_id for found in made for sample_id in found.ids[::every]}
    rows = [
        shard_images(dataset, shard, selection, usable and (lambda: usable))
        for dataset in datasets
        for shard in dataset.shards
    ]
    expected, digest = listed(datasets, selection, usable)
    if not expected:
        return
    index = merge_images(tmp_path_factory.mktemp("index"), datasets, selection, rows)
    assert in_columns(index) == dict(sorted(expected.items()))
    assert [group.anchor for group in index.groups] == sorted(expected)
    assert index.digest == digest


def test_an_index_of_other_images_or_shards_is_refused(made: list[MadeDataset], tmp_path: Path) -> None:
    sources = [SourceFolders(dataset=found.dataset) for found in made]
    datasets = [CuratedDataset(found.dataset) for found in made]
    selection = ImageSelection(split="train", tasks=None)
    with pytest.raises(LoadingError, match="not an index of images"):
        open_image_index(tmp_path, datasets, selection)
    make_image_index(tmp_path, sources, selection)
    with pytest.raises(LoadingError, match="made for other images"):
        open_image_index(tmp_path, datasets, ImageSelection(split="val", tasks=None))
    with pytest.raises(LoadingError, match="made from other shards than the datasets have now"):
        open_image_index(tmp_path, datasets[:1], selection)
    meta = json.loads((tmp_path / META_FILE).read_text())
    (tmp_path / META_FILE).write_text(json.dumps({**meta, "anchors": meta["anchors"][:1]}))
    with pytest.raises(LoadingError, match=r"images has .* bytes, expected"):
        open_image_index(tmp_path, datasets, selection)
    np.testing.assert_equal(sorted(path.name for path in tmp_path.iterdir())[:2], ["images", "images.json"])
