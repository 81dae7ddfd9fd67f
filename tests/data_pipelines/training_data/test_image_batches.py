"""Micro-batches of images: every image once per epoch, one size per micro-batch, the same for the same number."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import Sample, SampleError, Turn
from data_pipelines.training_data.image_batches import ImageBatches, description
from data_pipelines.training_data.image_index import ImageSelection, merge_images, shard_images
from tests.data_pipelines.conftest import MadeDataset, MakeDataset, Wanted

BATCH = 3


@pytest.fixture(scope="module")
def made(make_dataset: MakeDataset) -> MadeDataset:
    return make_dataset(40, per_shard=25)


def batches(
    *folders: Path,
    split: str = "train",
    tasks: tuple[str, ...] | None = None,
    usable: set[str] | None = None,
    **options: Any,
) -> ImageBatches:
    selection = ImageSelection(split=split, tasks=tasks)
    datasets = [CuratedDataset(folder) for folder in folders]
    rows = [
        shard_images(dataset, shard, selection, usable and (lambda: usable))
        for dataset in datasets
        for shard in dataset.shards
    ]
    with tempfile.TemporaryDirectory() as out:
        index = merge_images(Path(out), datasets, selection, rows)  # its files stay mapped
    return ImageBatches(datasets, index, **{"batch": BATCH, "seed": 1} | options)


def shown_images(image_batches: ImageBatches, epoch: int) -> list[str]:
    """The images of an epoch in their order."""
    first = epoch * image_batches.micro_batches_per_epoch
    micro_batches = [
        image_batches.micro_batch(number) for number in range(first, first + image_batches.micro_batches_per_epoch)
    ]
    return [sample.images[0].sha256 for micro_batch in micro_batches for sample in micro_batch.samples]


def test_an_epoch_shows_every_image_and_few_twice(made: MadeDataset) -> None:
    image_batches = batches(made.dataset)
    counts = Counter(shown_images(image_batches, epoch=0))
    with_images = [wanted for wanted in made.samples if wanted.anchors]
    assert len(counts) == image_batches.num_images == len(with_images)
    filled = image_batches.micro_batches_per_epoch * BATCH - len(with_images)  # the last micro-batch of each anchor
    assert sorted(counts.values()) == [1] * (len(with_images) - filled) + [2] * filled


def test_an_image_of_several_samples_is_shown_once(make_dataset: MakeDataset) -> None:
    anchors = ((64, 64),)
    shared = [
        Wanted(task="understanding", turns=("<image>\nWhat?", f"answer {n}"), anchors=anchors, image=7)
        for n in range(4)
    ]
    made = make_dataset([*shared, Wanted(task="understanding", turns=("<image>\nWho?", "you"), anchors=anchors)])
    assert batches(made.dataset).num_images == 2


def test_a_micro_batch_has_one_anchor_and_pixels_of_its_size(made: MadeDataset) -> None:
    image_batches = batches(made.dataset)
    seen = set()
    for number in range(image_batches.micro_batches_per_epoch):
        micro_batch = image_batches.micro_batch(number)
        seen.add(micro_batch.anchor)
        assert {sample.images[0].anchor for sample in micro_batch.samples} == {micro_batch.anchor}
        assert micro_batch.pixels_BCYX.shape == (BATCH, 3, *micro_batch.anchor)
        assert np.abs(micro_batch.pixels_BCYX).max() <= 1
    assert seen == {(64, 64), (64, 128)}


def test_a_micro_batch_follows_from_its_number_alone(made: MadeDataset) -> None:
    walked = batches(made.dataset)
    for number in range(9):
        walked.micro_batch(number)
    fresh = batches(made.dataset).micro_batch(9)
    assert np.array_equal(walked.micro_batch(9).pixels_BCYX, fresh.pixels_BCYX)
    assert walked.micro_batch(9).samples == fresh.samples
    assert walked.micro_batch(9).shards == fresh.shards


def test_parts_add_up_to_the_whole_micro_batch(made: MadeDataset) -> None:
    whole, halves = batches(made.dataset, batch=4), batches(made.dataset, batch=4, parts=2)
    for number in range(2 * whole.micro_batches_per_epoch):
        parts = [halves.micro_batch(2 * number + part) for part in range(2)]
        expected = whole.micro_batch(number)
        assert np.array_equal(np.concatenate([part.pixels_BCYX for part in parts]), expected.pixels_BCYX)
        assert tuple(sample for part in parts for sample in part.samples) == expected.samples
    with pytest.raises(ValueError, match="3 do not divide a micro-batch of 4"):
        batches(made.dataset, batch=4, parts=3)


def test_a_share_of_the_images_is_mirrored_and_others_in_each_epoch(made: MadeDataset) -> None:
    plain, mirroring = batches(made.dataset), batches(made.dataset, mirrored_share=0.5)
    turned: list[set[str]] = []
    for epoch in range(2):
        turned.append(set())
        for number in range(epoch * plain.micro_batches_per_epoch, (epoch + 1) * plain.micro_batches_per_epoch):
            straight, found = plain.micro_batch(number), mirroring.micro_batch(number)
            for before, after, sample in zip(straight.pixels_BCYX, found.pixels_BCYX, found.samples, strict=True):
                if not np.array_equal(before, after):
                    assert np.array_equal(before[:, :, ::-1], after)
                    turned[-1].add(sample.sample_id)
    assert all(0.2 < len(mirrored) / plain.num_images < 0.8 for mirrored in turned)
    assert turned[0] != turned[1]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.sampled_from([1, 2, 3, 6, 50]),
    seed=st.integers(0, 3),
    tasks=st.sampled_from([None, ("generation",), ("understanding", "editing")]),
    before=st.integers(0, 40),
    every=st.integers(1, 3),
)
def test_when_an_image_was_shown_is_computed_as_replayed(
    made: MadeDataset, batch: int, seed: int, tasks: tuple[str, ...] | None, before: int, every: int
) -> None:
    """Over several epochs, with samples that may not be shown, by micro-batches that are built whole or in parts."""
    usable = set(made.ids) if every == 1 else set(made.ids[::every]) | set(made.ids[1::every])
    parts = 2 if batch % 2 == 0 else 1
    image_batches = batches(made.dataset, batch=batch, seed=seed, tasks=tasks, parts=parts, usable=usable)
    replayed: dict[str, set[int]] = {}
    for number in range(before * parts):
        for sample in image_batches.micro_batch(number).samples:
            replayed.setdefault(sample.images[0].sha256, set()).add(number // parts)
    expected = {image: sorted(numbers) for image, numbers in replayed.items()}
    assert image_batches.micro_batches_with([*replayed, "0" * 64], before=before) == {**expected, "0" * 64: []}
    assert image_batches.micro_batches_with([], before=before) == {}


def test_epochs_and_seeds_have_orders_of_their_own(made: MadeDataset) -> None:
    image_batches = batches(made.dataset)
    orders = [
        shown_images(image_batches, 0),
        shown_images(image_batches, 1),
        shown_images(batches(made.dataset, seed=2), 0),
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_images_are_cropped_to_a_multiple_of_their_anchor(made: MadeDataset) -> None:
    micro_batch = batches(made.dataset, scale=2).micro_batch(0)
    assert micro_batch.pixels_BCYX.shape[2:] == (2 * micro_batch.anchor[0], 2 * micro_batch.anchor[1])


def test_a_task_and_a_split_select_the_images(make_dataset: MakeDataset) -> None:
    draw = ("Generate {resolution_tag}\n", "<image>")
    made = make_dataset(
        [
            Wanted(task="generation", turns=draw, anchors=((64, 64),)),
            Wanted(task="generation", turns=draw, anchors=((64, 64),), split="val"),
            Wanted(task="generation", turns=draw, anchors=((64, 64),), verdict="drop"),
            Wanted(task="understanding", turns=("<image>\nWhat?", "it"), anchors=((64, 64),)),
        ]
    )
    assert batches(made.dataset, tasks=("generation",)).micro_batch(0).samples[0].sample_id == made.ids[0]
    assert batches(made.dataset, split="val").micro_batch(0).samples[0].sample_id == made.ids[1]
    assert batches(made.dataset).num_images == 2


def test_samples_that_may_not_be_shown_are_left_out(made: MadeDataset) -> None:
    without = next(sample_id for sample_id, wanted in zip(made.ids, made.samples, strict=True) if wanted.anchors)
    image_batches = batches(made.dataset, usable=set(made.ids) - {without})
    assert image_batches.num_images == batches(made.dataset).num_images - 1
    micro_batches = [image_batches.micro_batch(number) for number in range(image_batches.micro_batches_per_epoch)]
    assert without not in {sample.sample_id for micro_batch in micro_batches for sample in micro_batch.samples}


def test_a_micro_batch_names_the_dataset_and_shard_of_each_sample(made: MadeDataset, make_dataset: MakeDataset) -> None:
    asked = Wanted(task="understanding", turns=("<image>\nWhat?", "it"), anchors=((64, 64),), image=9999)
    other = make_dataset([asked], name="other")
    image_batches = batches(made.dataset, other.dataset)
    locations = {
        sample.sample_id: location
        for number in range(image_batches.micro_batches_per_epoch)
        for micro_batch in [image_batches.micro_batch(number)]
        for sample, location in zip(micro_batch.samples, micro_batch.shards, strict=True)
    }
    assert locations[made.ids[1]] == (0, "d-00000")
    assert locations[made.ids[26]] == (0, "d-00001")
    assert locations[other.ids[0]] == (1, "other-00000")


def test_a_dataset_without_fitting_images_is_refused(make_dataset: MakeDataset) -> None:
    made = make_dataset([Wanted(task="text", turns=("Say", "so"))])
    with pytest.raises(
        DatasetError, match=r"no kept image with an anchor \(split 'val', tasks editing, generation\); look at"
    ):
        batches(made.dataset, split="val", tasks=("generation", "editing"))


def test_a_damaged_image_names_its_sample(make_dataset: MakeDataset) -> None:
    made = make_dataset([Wanted(task="understanding", turns=("<image>\nWhat?", "it"), anchors=((64, 64),))])
    image_batches = batches(made.dataset, batch=1)
    tar = made.dataset / "shards" / "d-00000.tar"
    data = bytearray(tar.read_bytes())
    start = data.index(b"IDAT") + 8
    data[start : start + 40] = bytes(40)
    tar.write_bytes(data)
    with pytest.raises(SampleError, match=rf"sample {made.ids[0]}: cannot be decoded"):
        image_batches.micro_batch(0)


def test_a_dataset_that_changed_under_its_index_is_named(make_dataset: MakeDataset) -> None:
    asked = [
        Wanted(task="understanding", turns=("<image>\nWhat?", "it"), anchors=((64, 64),), image=number)
        for number in (1, 2)
    ]
    before, after = make_dataset(asked[:1], name="before"), make_dataset(asked[1:], name="after")
    image_batches = batches(before.dataset, batch=1)
    (before.dataset / "shards" / "before-00000.tar").write_bytes(
        (after.dataset / "shards" / "after-00000.tar").read_bytes()
    )
    with pytest.raises(SampleError, match=r"shard before-00000 .*the dataset has changed, make the index again"):
        image_batches.micro_batch(0)


def test_an_image_is_described_by_the_answer_or_by_the_request_to_draw_it() -> None:
    turns = (Turn(role="human", text="<image>\nWhat?"), Turn(role="gpt", text="A star."))
    asked = Sample(sample_id="a", task="understanding", turns=turns)
    drawn = Sample(sample_id="b", task="generation", turns=(Turn(role="human", text="Draw a star."), turns[1]))
    assert description(asked) == "A star."
    assert description(drawn) == "Draw a star."
    with pytest.raises(SampleError, match="sample c: no text that describes its image"):
        description(Sample(sample_id="c", task="understanding", turns=turns[:1]))


def test_the_wording_of_a_request_is_not_part_of_what_an_image_shows() -> None:
    request = "Generate an image of {resolution_tag}, the content of image is a red star\n"
    turns = (Turn(role="human", text=request), Turn(role="gpt", text="<image>"))
    assert description(Sample(sample_id="d", task="generation", turns=turns)) == "a red star"
