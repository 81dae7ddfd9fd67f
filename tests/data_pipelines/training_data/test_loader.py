"""The loader: order by arithmetic, equal on any number of workers, from any step, and equal to its own trace."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.conversations import render
from data_pipelines.tokens.text_tokenizer import ChatTokenizer, train_text_tokenizer
from data_pipelines.tokens.token_shards import TokenizerIdentity, TokensError
from data_pipelines.training_data.config import LoaderConfig, MixturePart
from data_pipelines.training_data.index import IndexedPart, LoadingError, Rendering, SourceFolders, build_training_index
from data_pipelines.training_data.loader import ByteCache, TrainingData
from data_pipelines.training_data.order import LoaderPosition, TrainingOrder, places_of
from data_pipelines.training_data.packing import PackedRow
from models.mllm.vocabulary import IGNORED_LABEL, PIXEL_FEATURE, VisionVocabulary

TASKS = ("text", "understanding", "generation", "editing")
ROW_TOKENS = 700
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    chat = ChatTokenizer(train_text_tokenizer([f"word{n} user assistant image" for n in range(50)], 300))
    vocabulary = VisionVocabulary(
        first_id=chat.num_text_ids + 3, semantic_codes=64, pixel_codes=192, resolutions=(64, 128)
    )
    sizes = InputSizes(pixel_factor=8, min_pixels=32**2, max_pixels=64**2)
    return Rendering(tokenizer=chat, vocabulary=vocabulary, sizes=sizes)


@pytest.fixture(scope="module")
def made(make_dataset: Callable[..., Any]) -> list[Any]:
    return [make_dataset(60, name="first"), make_dataset(33, name="second")]


def config_of(*parts: MixturePart, **changes: Any) -> LoaderConfig:
    chosen = parts or (MixturePart(tasks=TASKS, weight=1.0),)
    fields: dict[str, Any] = {"seed": 7, "row_tokens": ROW_TOKENS, "rows_per_step": 4} | changes
    return LoaderConfig(parts=chosen, **fields)


TWO_PARTS = (
    MixturePart(tasks=("generation", "editing"), weight=3.0, dataset=0),
    MixturePart(tasks=TASKS, weight=1.0, dataset=1),
)


@pytest.fixture(scope="module")
def open_data(made: list[Any], rendering: Rendering, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    sources = [SourceFolders(dataset=one.dataset, tokens=one.tokens) for one in made]
    built: dict[str, Path] = {}

    def open_(config: LoaderConfig) -> TrainingData:
        key = repr(config)
        if key not in built:
            built[key] = tmp_path_factory.mktemp("index")
            build_training_index(sources, config, rendering, built[key])
        return TrainingData(sources, config, rendering, built[key])

    return open_


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
        for world in (1, 2, 3, 4, 7):
            shares = [data.batch(step, rank=rank, world=world) for rank in range(world)]
            dealt = [row for turn in itertools.zip_longest(*shares) for row in turn if row is not None]
            assert same_rows(whole, dealt)


def test_going_on_from_a_position_equals_never_stopping(open_data: Callable[..., TrainingData]) -> None:
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


configs = st.builds(
    lambda row_tokens, rows_per_step, seed, weights, dropout: config_of(
        *(replace(part, weight=weight) for part, weight in zip(TWO_PARTS, weights, strict=True)),
        row_tokens=row_tokens,
        rows_per_step=rows_per_step,
        seed=seed,
        condition_dropout=dropout,
        max_left_out_share=0.9,
    ),
    row_tokens=st.sampled_from([200, 350, 1500]),
    rows_per_step=st.integers(1, 5),
    seed=st.integers(0, 3),
    weights=st.tuples(st.sampled_from([0.3, 1.0, 7.0]), st.sampled_from([0.5, 1.0])),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, steps=st.integers(1, 40), resumed_at=st.integers(0, 39), world=st.integers(1, 4))
def test_the_steps_that_saw_a_sample_equal_a_replay(
    open_data: Callable[..., TrainingData],
    made: list[Any],
    config: LoaderConfig,
    steps: int,
    resumed_at: int,
    world: int,
) -> None:
    """With packing, a mixture, several epochs, left-out samples, a resume and several workers."""
    order = open_data(config).order
    replayed: defaultdict[str, set[int]] = defaultdict(set)
    for step in range(steps):
        if step == min(resumed_at, steps - 1):
            order.resume(order.position(step))
        for rank in range(world):
            for row in order.rows_of_step(step, rank=rank, world=world):
                for sample in order.samples_of(row):
                    replayed[sample.sample_id].add(step)
    ids = [*made[0].ids, *made[1].ids, "0" * 64]
    assert order.steps_that_saw(ids, before_step=steps) == [sorted(replayed[sample_id]) for sample_id in ids]
    assert order.steps_that_saw(ids[:1], before_step=0) == [[]]
    assert order.steps_that_saw([], before_step=steps) == []


def test_ids_that_share_their_first_half_and_ids_asked_twice_are_told_apart() -> None:
    ids = np.zeros((6, 32), dtype=np.uint8)
    ids[:, 31] = [3, 1, 4, 1, 5, 9]
    ids[5, 0] = 7
    none = np.zeros(0, dtype=np.int64)
    part = IndexedPart(
        shard_names=(), digest="", ids=ids, shards=none.astype(np.int32), offsets=none, spans=none, token_rows=none,
        flags=np.zeros(6, dtype=np.uint8), lengths=np.ones((6, 2), dtype=np.int32),
    )  # fmt: skip
    which, indices = places_of(part, ids[[4, 1, 4, 5, 0]])
    assert sorted(zip(which.tolist(), indices.tolist(), strict=True)) == [
        (0, 4),
        (1, 1),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 0),
    ]
    absent = np.full((1, 32), 255, dtype=np.uint8)
    assert [len(each) for each in places_of(part, absent)] == [0, 0]


BOTH = config_of(*TWO_PARTS)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    config=configs,
    steps=st.integers(1, 12),
    restarts=st.dictionaries(st.integers(0, 11), st.integers(1, 5), max_size=3),
)
@example(config=BOTH, steps=6, restarts={2: 3})
def test_the_steps_that_saw_a_sample_are_those_whose_rows_hold_its_words(
    open_data: Callable[..., TrainingData],
    made: list[Any],
    rendering: Rendering,
    config: LoaderConfig,
    steps: int,
    restarts: dict[int, int],
) -> None:
    """Read from the ids that workers are given; each restart goes on from a kept position with other workers."""
    dataset = CuratedDataset(made[1].dataset)
    samples = [one for shard in dataset.shards for one in dataset.samples(shard, dataset.rows(shard))]
    told_apart = [one for one in samples if one.task in ("text", "understanding")]  # by their words alone
    parts = {"tokenizer": rendering.tokenizer, "vocabulary": rendering.vocabulary, "sizes": rendering.sizes}
    words = {render(one, codes={}, drop_condition=False, **parts).ids.tobytes(): one.sample_id for one in told_apart}
    assert len(words) == len(told_apart)
    data, world = open_data(config), 1
    given_in: defaultdict[str, set[int]] = defaultdict(set)
    for step in range(steps):
        if step in restarts:
            position = data.order.position(step).to_json()
            data, world = open_data(config), restarts[step]
            data.order.resume(LoaderPosition.from_json(position))
        for row in [row for rank in range(world) for row in data.batch(step, rank=rank, world=world)]:
            for number in range(1, int(row.segments.max()) + 1):
                sample_id = words.get(row.ids[row.segments == number].tobytes())
                if sample_id is not None:
                    given_in[sample_id].add(step)
    ids = [one.sample_id for one in told_apart]
    computed = open_data(config).order.steps_that_saw(ids, before_step=steps)
    assert computed == [sorted(given_in[sample_id]) for sample_id in ids]
    assert any(computed) or config != BOTH


def test_rows_hold_what_their_samples_say(open_data: Callable[..., TrainingData], rendering: Rendering) -> None:
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


def test_samples_that_cannot_be_trained_are_left_out_with_their_reason(
    make_dataset: Callable[..., Any], wanted: Callable[..., Any], rendering: Rendering, tmp_path: Path
) -> None:
    good = [wanted(task="text", turns=(f"Say {n}", "yes")) for n in range(20)]
    bad = [
        wanted(task="text", turns=("Say", "word " * 900)),
        wanted(task="understanding", turns=("No image here", "yes"), anchors=((64, 64),)),
        wanted(task="generation", turns=("Draw {resolution_tag}", "<image>"), anchors=((64, 64),)),
        wanted(task="text", turns=("Say", "no"), verdict="drop"),
        wanted(task="text", turns=("Say", "no"), split="val"),
    ]
    made = make_dataset([*good, *bad], name="bad")
    source = SourceFolders(dataset=made.dataset, tokens=made.tokens)
    config = config_of(max_left_out_share=0.2)
    index = build_training_index([source], config, rendering, tmp_path / "a")
    assert index.left_out == {"too_long": 1, "cannot_be_rendered": 1}
    lines = [json.loads(line) for line in (tmp_path / "a/left_out.jsonl").read_text().splitlines()]
    assert {line["sample_id"]: line["reason"] for line in lines} == {
        made.ids[20]: "too_long",
        made.ids[21]: "cannot_be_rendered",
    }
    order = TrainingOrder(index, config)
    assert order.steps_that_saw([made.ids[20], made.ids[23], made.ids[24]], before_step=50) == [[], [], []]
    assert order.steps_that_saw([made.ids[22]], before_step=50)[0]
    with pytest.raises(LoadingError, match="lengthen row_tokens, or set too_long: drop"):
        build_training_index([source], replace(config, too_long="error"), rendering, tmp_path / "b")
    with pytest.raises(LoadingError, match=r"2 of 23 samples cannot be trained .* max_left_out_share 0\.05"):
        build_training_index([source], config_of(), rendering, tmp_path / "c")


def test_samples_whose_images_were_not_tokenized_are_left_out(
    make_dataset: Callable[..., Any], rendering: Rendering, tmp_path: Path
) -> None:
    absent = hashlib.sha256(b"gaps/2").hexdigest()
    made = make_dataset(12, name="gaps", without=[absent])
    source = SourceFolders(dataset=made.dataset, tokens=made.tokens)
    index = build_training_index([source], config_of(max_left_out_share=0.2), rendering, tmp_path / "a")
    assert made.ids[2] == absent
    assert index.left_out == {"no_codes": 1}


def test_wrong_data_are_refused_before_training(
    make_dataset: Callable[..., Any], made: list[Any], rendering: Rendering, tmp_path: Path
) -> None:
    sources = [SourceFolders(dataset=one.dataset, tokens=one.tokens) for one in made]
    other = TokenizerIdentity(sha256="b" * 64, semantic_codes=64, pixel_codes=192, pixel_factor=8)
    mixed = make_dataset(8, name="mixed", tokenizer=other)
    wide = TokenizerIdentity(sha256="b" * 64, semantic_codes=65, pixel_codes=192, pixel_factor=8)
    wider = make_dataset(8, name="wider", tokenizer=wide)

    def build(config: LoaderConfig, used: list[SourceFolders]) -> None:
        build_training_index(used, config, rendering, tmp_path / f"index-{len(list(tmp_path.iterdir()))}")

    with pytest.raises(TokensError, match="with the same tokenizer"):
        build(config_of(*TWO_PARTS), [sources[0], SourceFolders(dataset=mixed.dataset, tokens=mixed.tokens)])
    with pytest.raises(LoadingError, match="make both from the same image tokenizer"):
        build(config_of(), [SourceFolders(dataset=wider.dataset, tokens=wider.tokens)])
    with pytest.raises(LoadingError, match="need image tokens, but data set 0 has none"):
        build(config_of(), [SourceFolders(dataset=made[0].dataset)])
    with pytest.raises(LoadingError, match="there are 1 data sets"):
        build(config_of(MixturePart(tasks=TASKS, weight=1, dataset=1)), sources[:1])
    with pytest.raises(LoadingError, match="no kept sample of split 'test' with tasks text"):
        build(config_of(MixturePart(tasks=("text",), weight=1, split="test")), sources)


def test_an_index_or_a_position_of_other_settings_is_refused(
    open_data: Callable[..., TrainingData], made: list[Any], rendering: Rendering, tmp_path: Path
) -> None:
    sources = [SourceFolders(dataset=one.dataset, tokens=one.tokens) for one in made]
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
