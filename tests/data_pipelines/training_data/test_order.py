"""The order of training: every sample once per epoch, and the steps that trained a sample equal a replay."""

import bisect
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.training_data.config import LoaderConfig, LoadingError, MixturePart
from data_pipelines.training_data.ids import find_ids
from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.order import LoaderPosition, TrainingOrder
from tests.data_pipelines.training_data.loader_configs import TWO_PARTS, config_of, configs


def test_every_sample_comes_exactly_once_in_every_epoch(
    open_data: Callable[..., TrainingData], made: list[Any]
) -> None:
    order = open_data(config_of()).order
    seen: Counter[tuple[int, str]] = Counter()
    row = 0
    while not any(epoch == 3 for epoch, _ in seen):
        seen.update((sample.epoch, sample.sample_id) for sample in order.samples_of(row))
        row += 1
    for epoch in range(3):
        assert {sample_id for e, sample_id in seen if e == epoch} == set(made[0].ids)
    assert set(seen.values()) == {1}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, steps=st.integers(1, 40), resumed_at=st.integers(0, 39), world_size=st.integers(1, 4))
def test_the_steps_that_saw_a_sample_equal_a_replay(
    open_data: Callable[..., TrainingData],
    made: list[Any],
    config: LoaderConfig,
    steps: int,
    resumed_at: int,
    world_size: int,
) -> None:
    """With packing, a mixture, several epochs, left-out samples, a resume and several workers."""
    order = open_data(config).order
    replayed: defaultdict[str, set[int]] = defaultdict(set)
    for step in range(steps):
        if step == min(resumed_at, steps - 1):
            order.resume(order.position(step))
        for rank in range(world_size):
            for row in order.rows_of_step(step, rank=rank, world_size=world_size):
                for sample in order.samples_of(row):
                    replayed[sample.sample_id].add(step)
    ids = [*made[0].ids, *made[1].ids, "0" * 64]
    assert order.steps_that_saw(ids, before_step=steps) == [sorted(replayed[sample_id]) for sample_id in ids]
    assert order.steps_that_saw(ids[:1], before_step=0) == [[]]
    assert order.steps_that_saw([], before_step=steps) == []


def test_ids_that_share_their_first_half_and_ids_wanted_twice_are_found() -> None:
    ids = np.zeros((6, 32), dtype=np.uint8)
    ids[:, 31] = [3, 1, 4, 1, 5, 9]
    ids[5, 0] = 7
    which, indices = find_ids(ids, ids[[4, 1, 4, 5, 0]])
    assert sorted(zip(which.tolist(), indices.tolist(), strict=True)) == [
        (0, 4),
        (1, 1),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 0),
    ]
    absent = np.full((1, 32), 255, dtype=np.uint8)
    assert [len(found) for found in find_ids(ids, absent)] == [0, 0]


def test_conditions_dropped_do_not_depend_on_the_order(open_data: Callable[..., TrainingData]) -> None:
    def drops(config: LoaderConfig) -> dict[tuple[str, int], bool]:
        order = open_data(config).order
        seen = [sample for row in range(60) for sample in order.samples_of(row)]
        return {(sample.sample_id, sample.epoch): sample.condition_dropped for sample in seen if sample.part == 0}

    first = drops(config_of(*TWO_PARTS, condition_dropout=0.5))
    second = drops(config_of(*TWO_PARTS, condition_dropout=0.5, row_tokens=900, rows_per_step=2))
    common = first.keys() & second.keys()
    assert len(common) > 30
    assert all(first[key] == second[key] for key in common)


def test_a_part_with_a_share_of_its_own_reconstructs_its_images(open_data: Callable[..., TrainingData]) -> None:
    reconstruction = MixturePart(tasks=("editing",), weight=1.0, dataset=1, condition_dropout=1.0)
    unchanged = config_of(*TWO_PARTS, condition_dropout=0.0)
    order = open_data(config_of(*TWO_PARTS, reconstruction, condition_dropout=0.0)).order
    seen = [sample for row in range(60) for sample in order.samples_of(row)]
    assert {(sample.part, sample.condition_dropped) for sample in seen} == {(0, False), (1, False), (2, True)}
    stated = [replace(part, condition_dropout=0.0) for part in TWO_PARTS]
    assert open_data(config_of(*stated, condition_dropout=0.0)).order.digest != open_data(unchanged).order.digest
    with pytest.raises(ValueError, match=r"condition_dropout: 1\.5, expected a share"):
        replace(reconstruction, condition_dropout=1.5)


def test_a_position_of_another_order_or_another_size_of_steps_is_refused(
    open_data: Callable[..., TrainingData],
) -> None:
    order = open_data(config_of()).order
    position = order.position(3)
    order.resume(position)
    for other in (replace(position, order="0" * 64), replace(position, row=position.row + 1)):
        with pytest.raises(LoadingError, match="the checkpoint at step 3 was trained on data in order"):
            order.resume(other)


def test_the_share_of_tokens_that_are_no_padding_is_that_of_the_rows(open_data: Callable[..., TrainingData]) -> None:
    config = config_of()
    order = open_data(config).order
    stop = order.position(1).position
    assert config.rows_per_step >= 1
    expected = order.lengths(0, stop).sum() / (config.rows_per_step * config.row_tokens)
    assert order.utilization(config.rows_per_step) == expected
    assert 0 < expected <= 1


def test_a_saved_position_stays_readable() -> None:
    text = '{"step": 3, "row": 6, "position": 40, "order": "ab", "format": 1}'
    position = LoaderPosition(step=3, row=6, position=40, order="ab")
    assert (position.to_json(), LoaderPosition.from_json(text)) == (text, position)


def test_a_step_of_so_many_samples_has_the_rows_that_hold_them(open_data: Callable[..., TrainingData]) -> None:
    order = open_data(config_of(rows_per_step=0, samples_per_step=12)).order
    seen = [len(order.samples_of(row)) for row in range(40 * order.rows_per_step)]
    assert sum(seen) / 40 == pytest.approx(12, abs=12 / order.rows_per_step)
    assert order.digest == open_data(config_of(rows_per_step=order.rows_per_step)).order.digest


def test_the_rows_of_a_step_are_those_that_hold_so_many_samples_in_the_first_16384_positions(
    open_data: Callable[..., TrainingData],
) -> None:
    by_rows = open_data(config_of(rows_per_step=1, row_tokens=350)).order
    assert (by_rows.lengths(0, 16_384) == 0).any()  # longer than a row: left out, and not counted
    rows = bisect.bisect_right(range(16_384), 16_383, key=lambda row: by_rows.position(row).position)
    num_samples = int((by_rows.lengths(0, by_rows.position(rows).position) > 0).sum())
    for samples in (1, 12, 1_000_003):  # the last so large that one sample or row more in the measure would show
        order = open_data(config_of(rows_per_step=0, samples_per_step=samples, row_tokens=350)).order
        assert order.rows_per_step == max(1, round(samples * rows / num_samples))


def test_the_digest_of_an_order_is_the_same_in_every_version(open_data: Callable[..., TrainingData]) -> None:
    """Another one would refuse every checkpoint of a training that has begun."""
    data = open_data(config_of(condition_dropout=0.5))
    settings = [data._index.digest, 7, 4, 0.5]
    assert data.order.digest == hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def test_an_order_needs_a_part_of_the_mixture_for_each_part_of_its_index(
    open_data: Callable[..., TrainingData],
) -> None:
    config = config_of(*TWO_PARTS)
    index = open_data(config)._index
    with pytest.raises(ValueError, match="zip"):
        TrainingOrder(index, replace(config, parts=TWO_PARTS[:1]))


def test_nothing_was_seen_before_the_first_step(open_data: Callable[..., TrainingData], made: list[Any]) -> None:
    ids = np.frombuffer(bytes.fromhex(made[0].ids[0]), dtype=np.uint8).reshape(1, 32)
    assert [found.shape for found in open_data(config_of()).order.exposures(ids, before_step=0)] == [(0,), (0,)]


def test_another_packing_is_another_order_of_the_same_samples(open_data: Callable[..., TrainingData]) -> None:
    orders = [open_data(config_of(packing=packing)).order for packing in ("next_fit", "best_fit")]
    assert orders[0].digest != orders[1].digest
    assert orders[1].utilization(200) > orders[0].utilization(200)


def test_epochs_are_counted_by_part(open_data: Callable[..., TrainingData], made: list[Any]) -> None:
    alone = open_data(config_of()).order
    assert alone.epochs(8) == [alone.position(8).position / len(made[0].ids)]
    order = open_data(config_of(*TWO_PARTS)).order
    seen = Counter(sample.part for row in range(8 * 4) for sample in order.samples_of(row))
    first, second = order.epochs(8)
    assert first > 0
    assert second >= seen[1] / max(1, len(made[1].ids)) - 1
