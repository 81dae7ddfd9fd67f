"""The loader: the same rows on any number of workers, from any step, and equal to the computed trace."""

import itertools
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import SampleError
from data_pipelines.tokens.conversations import render
from data_pipelines.training_data.config import LoaderConfig, LoadingError, MixturePart
from data_pipelines.training_data.index import Rendering
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.loader import ByteCache, TrainingData
from data_pipelines.training_data.order import LoaderPosition
from data_pipelines.training_data.packing import PackedRow
from data_pipelines.training_data.sources import SourceFolders
from models.mllm.vocabulary import IGNORED_LABEL, PIXEL_FEATURE
from tests.data_pipelines.conftest import Wanted
from tests.data_pipelines.training_data.loader_configs import ROW_TOKENS, TWO_PARTS, config_of, configs

ROOT = Path(__file__).resolve().parents[3]


def same_rows(first: list[PackedRow], second: list[PackedRow]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.ids, b.ids)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.positions, b.positions)
        and np.array_equal(a.segments, b.segments)
        and len(a.images) == len(b.images)
        and all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        for a, b in zip(first, second, strict=True)
    )


def test_a_step_is_the_same_on_any_number_of_workers(open_data: Callable[..., TrainingData]) -> None:
    data = open_data(config_of(*TWO_PARTS))
    for step in (0, 3):
        whole = data.batch(step)
        for world_size in (1, 2, 3, 4, 7):
            shares = [data.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
            dealt = [row for turn in itertools.zip_longest(*shares) for row in turn if row is not None]
            assert same_rows(whole, dealt)


def test_resuming_from_a_position_equals_never_stopping(open_data: Callable[..., TrainingData]) -> None:
    config = config_of(*TWO_PARTS)
    whole = open_data(config)
    expected = {step: whole.batch(step) for step in range(6)}
    for step in range(6):
        fresh = open_data(config)
        fresh.order.resume(LoaderPosition.from_json(whole.order.position(step).to_json()))
        assert all(same_rows(fresh.batch(later), expected[later]) for later in range(step, 6))
    assert all(same_rows(open_data(config).batch(step), expected[step]) for step in (5, 2))
    ahead = dict(whole.batches(1, 6, threads=2))
    assert list(ahead) == [1, 2, 3, 4, 5]
    assert all(same_rows(rows, expected[step]) for step, rows in ahead.items())


BOTH = config_of(*TWO_PARTS)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    config=configs,
    steps=st.integers(1, 12),
    restarts=st.dictionaries(st.integers(0, 11), st.integers(1, 5), max_size=3),
)
@example(config=BOTH, steps=6, restarts={2: 3})
def test_the_steps_that_saw_a_sample_are_those_whose_rows_hold_its_text(
    open_data: Callable[..., TrainingData],
    made: list[Any],
    rendering: Rendering,
    config: LoaderConfig,
    steps: int,
    restarts: dict[int, int],
) -> None:
    """Read from the ids that workers are given; each restart goes on from a kept position with other workers."""
    dataset = CuratedDataset(made[1].dataset)
    samples = [sample for shard in dataset.shards for sample in dataset.samples(shard, dataset.rows(shard))]
    distinct = [sample for sample in samples if sample.task in ("text", "understanding")]  # unique by their text
    parts = {"tokenizer": rendering.tokenizer, "vocabulary": rendering.vocabulary, "sizes": rendering.sizes}
    words = {
        render(sample, codes={}, drop_condition=False, **parts).ids.tobytes(): sample.sample_id for sample in distinct
    }
    assert len(words) == len(distinct)
    data, world_size = open_data(config), 1
    given_in: defaultdict[str, set[int]] = defaultdict(set)
    for step in range(steps):
        if step in restarts:
            position = data.order.position(step).to_json()
            data, world_size = open_data(config), restarts[step]
            data.order.resume(LoaderPosition.from_json(position))
        for row in [row for rank in range(world_size) for row in data.batch(step, rank=rank, world_size=world_size)]:
            for number in range(1, int(row.segments.max()) + 1):
                sample_id = words.get(row.ids[row.segments == number].tobytes())
                if sample_id is not None:
                    given_in[sample_id].add(step)
    ids = [sample.sample_id for sample in distinct]
    computed = open_data(config).order.steps_that_saw(ids, before_step=steps)
    assert computed == [sorted(given_in[sample_id]) for sample_id in ids]
    assert any(computed) or config != BOTH


def test_rows_hold_their_samples(open_data: Callable[..., TrainingData], rendering: Rendering) -> None:
    data = open_data(config_of(condition_dropout=0.5))
    dropped = Counter()
    for row in range(12):
        seen = data.order.samples_of(row)
        packed = data.row(row)
        assert int(packed.segments.max()) == len(seen)
        assert packed.num_tokens == int((packed.segments > 0).sum()) <= ROW_TOKENS
        assert set(packed.labels[packed.segments == 0]) <= {IGNORED_LABEL}
        assert int((packed.ids == PIXEL_FEATURE).sum()) == sum(
            (i.shape[1] // 8) * (i.shape[2] // 8) for i in packed.images
        )
        for number, sample in enumerate(seen, start=1):
            text = rendering.tokenizer.decode(packed.ids[packed.segments == number])
            is_random = "Generate a random image" in text or "Reconstruct the image" in text
            assert is_random == sample.condition_dropped
            dropped[is_random] += 1
        for image in packed.images:
            assert image.dtype == np.float32
            assert -1 <= image.min() < image.max() <= 1
    assert dropped[True] > 5
    assert data.order.utilization(12) > 0.6


def test_an_index_or_a_position_of_other_settings_is_refused(
    open_data: Callable[..., TrainingData], made: list[Any], rendering: Rendering, tmp_path: Path
) -> None:
    sources = [SourceFolders(dataset=dataset.dataset, tokens=dataset.tokens) for dataset in made]
    build_training_index(sources, config_of(), rendering, tmp_path)
    with pytest.raises(LoadingError, match=r"other settings \(row_tokens\)"):
        TrainingData(sources, config_of(row_tokens=900), rendering, tmp_path)
    position = open_data(config_of()).order.position(2)
    with pytest.raises(LoadingError, match="loader settings have changed"):
        open_data(config_of(seed=8)).order.resume(position)
    for text in ("", "[]", "{}", '{"format": 2}', '{"format": 1, "step": 1}'):
        with pytest.raises(LoadingError, match="loader position"):
            LoaderPosition.from_json(text)
    (tmp_path / "part-0.lengths").write_bytes(b"")
    with pytest.raises(LoadingError, match=r"part-0\.lengths has 0 bytes"):
        TrainingData(sources, config_of(), rendering, tmp_path)
    with pytest.raises(LoadingError, match="not an index of training data"):
        TrainingData(sources, config_of(), rendering, tmp_path / "absent")


def test_a_dataset_that_changed_under_its_index_is_named_with_the_sample(
    make_dataset: Callable[..., Any], rendering: Rendering, tmp_path: Path
) -> None:
    texts = [Wanted(task="text", turns=("Say word1", "word1"))] * 3
    before, after = make_dataset(texts, name="before"), make_dataset(texts, name="after")
    config = config_of(MixturePart(tasks=("text",), weight=1.0))
    sources = [SourceFolders(dataset=before.dataset)]
    build_training_index(sources, config, rendering, tmp_path / "index")
    data = TrainingData(sources, config, rendering, tmp_path / "index")
    (before.dataset / "shards" / "before-00000.tar").write_bytes(
        (after.dataset / "shards" / "after-00000.tar").read_bytes()
    )
    first = data.order.samples_of(0)[0]
    found = after.ids[before.ids.index(first.sample_id)]
    said = rf"shard before-00000 holds sample {found} where the index says {first.sample_id}; the dataset has changed"
    with pytest.raises(SampleError, match=said):
        data.row(0)


def test_the_cache_never_holds_more_than_it_may() -> None:
    cache: ByteCache[bytes] = ByteCache(10)
    made: list[int] = []

    def get(key: int, size: int) -> int:
        return len(cache.get(key, lambda: made.append(key) or bytes(size), len))

    assert [get(1, 6), get(2, 4), get(1, 6), get(3, 4), get(1, 6), get(2, 4), get(4, 99), get(4, 99)] == [
        6,
        4,
        6,
        4,
        6,
        4,
        99,
        99,
    ]
    assert made == [1, 2, 3, 2, 4, 4]


def test_the_loader_does_not_need_torch() -> None:
    program = (
        "import sys, data_pipelines.training_data.loader, data_pipelines.training_data.index;"
        "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
