"""Held-out samples: never trained on, by image, the same in every part; and a validation set that was trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.training_data.config import LoaderConfig, LoadingError, LoadingGuards
from data_pipelines.training_data.held_out import check_disjoint, held_out_samples
from data_pipelines.training_data.ids import ids_of, images_held_out, is_held_out
from data_pipelines.training_data.index import Rendering
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.sources import SourceFolders
from tests.data_pipelines.training_data.loader_configs import TWO_PARTS, config_of

SHARE = 0.3


def test_no_held_out_sample_is_trained_and_every_other_one_is(
    open_data: Callable[[LoaderConfig], TrainingData],
) -> None:
    plain = open_data(config_of(*TWO_PARTS, rows_per_step=2))
    data = open_data(config_of(*TWO_PARTS, rows_per_step=2, held_out_share=SHARE))
    trained, trained_without = (
        {sample.sample_id for row in range(500) for sample in found.order.samples_of(row)} for found in (data, plain)
    )
    held_out = {sample.sample_id for sample in held_out_samples(data._index, 10_000)}
    assert trained_without - trained == held_out
    assert 0.1 * len(trained_without) < len(held_out) < 0.5 * len(trained_without)
    assert data.order.steps_that_saw(sorted(held_out), before_step=200) == [[] for _ in held_out]
    assert held_out_samples(plain._index, 10) == []
    assert data.order.digest != plain.order.digest


def test_held_out_rows_are_the_same_each_time_and_hold_these_samples(
    open_data: Callable[[LoaderConfig], TrainingData],
) -> None:
    data = open_data(config_of(*TWO_PARTS, held_out_share=SHARE))
    rows, again = data.held_out_rows(12), data.held_out_rows(12)
    assert [row.samples for row in rows] == [row.samples for row in again]
    assert sum(len(row.samples) for row in rows) == 12
    assert all((a.ids == b.ids).all() for a, b in zip(rows, again, strict=True))
    expected = {sample.sample_id for sample in held_out_samples(data._index, 12)}
    assert {name.split(" ")[0] for row in rows for name in row.samples} == expected
    assert {sample.part for sample in held_out_samples(data._index, 12)} == {0, 1}


def test_samples_of_one_image_are_on_one_side_and_a_larger_share_holds_out_the_same_ones() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (400, 32), dtype=np.uint8)
    images = [rng.bytes(32).hex() for _ in range(40)] + [""]
    given = [images[number % 41] for number in range(400)]
    few, more = is_held_out(ids, given, 0.2), is_held_out(ids, given, 0.5)
    for image in images[:-1]:
        assert len({bool(few[number]) for number in range(400) if given[number] == image}) == 1
    assert (more[few]).all()
    assert few.sum() < more.sum()
    assert (images_held_out(ids_of(images[:-1]), 0.2) == few[:40]).all()


def test_a_validation_set_that_shares_samples_with_training_is_named(
    made: list[Any], rendering: Rendering, tmp_path: Path
) -> None:
    sources = [SourceFolders(dataset=found.dataset, tokens=found.tokens) for found in made]
    config = config_of(*TWO_PARTS, held_out_share=SHARE)
    index = build_training_index(sources, config, rendering, tmp_path, LoadingGuards(max_dropped_share=0.9))
    held_out = ids_of([sample.sample_id for sample in held_out_samples(index, 100)])
    check_disjoint(index, held_out)
    part = index.parts[1]
    trained = next(at for at in range(len(part)) if part.flags[at] < 2 and part.lengths[at, 0])
    name = part.ids[trained].tobytes().hex()
    with pytest.raises(
        LoadingError, match=rf"1 of {len(held_out) + 1} validation samples are trained on: {name} \(part 1"
    ):
        check_disjoint(index, np.concatenate([held_out, part.ids[trained : trained + 1]]))
