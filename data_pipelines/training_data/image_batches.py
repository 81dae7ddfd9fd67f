"""Micro-batches of images, each of a single anchor, in a computed order: for training on images without dialogue.

Legend: B batch, C channels, Y X pixel rows and columns.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.files import is_fetched
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import Sample, SampleError, sample_name
from data_pipelines.images.model_input import input_pixels, open_upright
from data_pipelines.training_data.ids import find_ids, ids_of
from data_pipelines.training_data.image_index import ImageGroup, ImageIndex
from data_pipelines.training_data.loader import ByteCache
from data_pipelines.training_data.permutation import Integers, Permutation, epoch_permutation, is_chosen, sample_words
from models.dualvitok.geometry import Size

PROMPT_OPENING = "the content of image is"
CACHE_BYTES = 512 * 2**20  # of decoded images kept between epochs: all of a small dataset

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    pixels_BCYX: Pixels  # in [-1, 1], cropped to `anchor` times the scale
    samples: tuple[Sample, ...]
    shards: tuple[tuple[int, str], ...]  # index of the dataset and name of the shard of each sample
    anchor: Size


class ImageBatches:
    """The distinct first images of the kept samples of some datasets, grouped into micro-batches of one anchor.

    An epoch shows every image once; the last micro-batch of an anchor is filled up from the start of its order.
    """

    def __init__(
        self,
        datasets: Sequence[CuratedDataset],
        index: ImageIndex,
        *,
        batch: int,
        seed: int,
        scale: int = 1,
        parts: int = 1,
        mirrored_share: float = 0.0,
    ) -> None:
        """`scale` multiplies the anchor's sides: the diffusion decoder is trained on images of twice the size.
        `parts` splits each micro-batch into as many of equal size, in the same order; it must divide `batch`.
        `mirrored_share` of the images are mirrored, a different choice in each epoch.
        """
        self._datasets, self._index = datasets, index
        if batch % parts:
            raise ValueError(f"parts: {parts} do not divide a micro-batch of {batch}")
        self._batch, self._parts, self._seed, self._scale = batch, parts, seed, scale
        self._mirrored_share = mirrored_share
        self._counts = [-(-len(group) // batch) for group in index.groups]
        self._cache: ByteCache[tuple[Pixels, Sample]] = ByteCache(CACHE_BYTES)

    @property
    def num_images(self) -> int:
        return sum(len(group) for group in self._index.groups)

    @property
    def micro_batches_per_epoch(self) -> int:
        """Number of whole micro-batches, not of their parts."""
        return sum(self._counts)

    @property
    def num_micro_batches(self) -> int:
        """Of an epoch, each part counted."""
        return self.micro_batches_per_epoch * self._parts

    @property
    def anchors(self) -> Mapping[Size, int]:
        """How many images there are of each anchor."""
        return {group.anchor: len(group) for group in self._index.groups}

    @property
    def order(self) -> str:
        """Digest of everything that decides which images are in which micro-batch."""
        settings = [self._index.digest, self._batch, self._parts, self._seed, self._scale, self._mirrored_share]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def micro_batch(self, number: int) -> ImageBatch:
        """The micro-batch with this number, counted from 0 over all epochs.

        Raises: SampleError if an image that was curated can no longer be read.
        """
        group, chosen, epoch = self._located(number)
        loaded = [self._image(group, at) for at in chosen]
        mirrored = self._mirrored([sample for _, sample in loaded], epoch)
        return ImageBatch(
            pixels_BCYX=np.stack(
                [pixels[:, :, ::-1] if mirror else pixels for (pixels, _), mirror in zip(loaded, mirrored, strict=True)]
            ),
            samples=tuple(sample for _, sample in loaded),
            shards=tuple(self._index.shards[group.shards[at]] for at in chosen),
            anchor=group.anchor,
        )

    def read_ahead(self, number: int) -> None:
        """Begin to fetch the shards of a micro-batch that is needed soon, unless all are on this machine."""
        if any(is_fetched(dataset.folder) for dataset in self._datasets):
            group, chosen, _ = self._located(number)
            for at in chosen:
                dataset, shard = self._index.shards[group.shards[at]]
                self._datasets[dataset].read_ahead(shard, int(group.offsets[at]), int(group.spans[at]))

    def _located(self, number: int) -> tuple[ImageGroup, list[int], int]:
        """The group of a micro-batch, its images within the group, and its epoch."""
        whole, part = divmod(number, self._parts)
        epoch, position = divmod(whole, self.micro_batches_per_epoch)
        slot = int(self._shuffled("micros", self.micro_batches_per_epoch, epoch, [position])[0])
        number = 0
        while slot >= self._counts[number]:
            slot -= self._counts[number]
            number += 1
        group = self._index.groups[number]
        size = self._batch // self._parts
        positions = (slot * self._batch + part * size + np.arange(size)) % len(group)
        return group, self._shuffled(f"{group.anchor}", len(group), epoch, positions).tolist(), epoch

    def micro_batches_with(self, images: Collection[str], *, before: int) -> dict[str, list[int]]:
        """By image (SHA-256), the numbers of the whole micro-batches below `before` that hold it, in order.

        Computed, not logged: the inverse of `micro_batch`.
        """
        asked = list(dict.fromkeys(images))
        which, numbers = self.exposures(asked, before=before)
        parts = np.split(numbers, np.searchsorted(which, np.arange(1, len(asked)))) if asked else []
        return {image: part.tolist() for image, part in zip(asked, parts, strict=True)}

    def exposures(self, images: Sequence[str], *, before: int) -> tuple[Integers, Integers]:
        """Pairs (index in `images`, number of a whole micro-batch below `before` that holds it) as two sorted arrays.

        The images are distinct.
        """
        wanted = ids_of(images)
        found = [np.zeros((2, 0), dtype=np.int64)]
        first_slot = 0
        for group, count in zip(self._index.groups, self._counts, strict=True):
            which, indices = find_ids(group.images, wanted)
            for epoch in range(-(-before // self.micro_batches_per_epoch) if len(which) else 0):
                positions = self._order(f"{group.anchor}", len(group), epoch).position_of(indices)
                # The last micro-batch is filled up from the start of the order, several times if needed.
                for shift in range(0, count * self._batch, len(group)):
                    repeated = np.flatnonzero(positions + shift < count * self._batch)
                    slots = first_slot + (positions[repeated] + shift) // self._batch
                    numbers = self._order("micros", self.micro_batches_per_epoch, epoch).position_of(slots)
                    found.append(np.stack([which[repeated], epoch * self.micro_batches_per_epoch + numbers]))
            first_slot += count
        pairs = np.unique(np.concatenate(found, axis=1), axis=1)
        pairs = pairs[:, pairs[1] < before]
        return pairs[0], pairs[1]

    def _shuffled(self, group: str, size: int, epoch: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The items at some positions of an epoch."""
        return self._order(group, size, epoch).index_at(positions)

    def _order(self, group: str, size: int, epoch: int) -> Permutation:
        return epoch_permutation(size, dataset_digest=f"{self._index.digest}/{group}", seed=self._seed, epoch=epoch)

    def _mirrored(self, samples: Sequence[Sample], epoch: int) -> list[bool]:
        """Whether each sample's image is mirrored in an epoch; depends on the sample, seed and epoch only."""
        if not self._mirrored_share:
            return [False] * len(samples)
        ids = np.frombuffer(bytes.fromhex("".join(sample.sample_id for sample in samples)), dtype=np.uint8)
        chosen = is_chosen(
            sample_words(ids.reshape(-1, 32)),
            share=self._mirrored_share,
            seed=self._seed,
            epochs=epoch,
            purpose="mirrored",
        )
        return [bool(is_mirrored) for is_mirrored in chosen]

    def _image(self, group: ImageGroup, at: int) -> tuple[Pixels, Sample]:
        return self._cache.get((group.anchor, at), lambda: self._load(group, at), _num_bytes)

    def _load(self, group: ImageGroup, at: int) -> tuple[Pixels, Sample]:
        number, shard = self._index.shards[group.shards[at]]
        stored = self._datasets[number].read(shard, int(group.offsets[at]), int(group.spans[at]))
        expected = group.images[at].tobytes().hex()
        images = stored.sample.images
        if (found := images[0].sha256 if images else "none") != expected:
            raise SampleError(
                f"shard {shard} holds image {found} of sample {stored.sample.sample_id} where the index says "
                f"{expected}; the dataset has changed, make the index again"
            )
        where = f"sample {stored.sample.sample_id}"
        image = open_upright(stored.image_bytes(0), images[0], where)
        size = (group.anchor[0] * self._scale, group.anchor[1] * self._scale)
        return input_pixels(image, size, crop=True), stored.sample


def sample_names(batch: ImageBatch) -> tuple[str, ...]:
    """Ids and images of the samples of a micro-batch, for messages."""
    return tuple(sample_name(sample) for sample in batch.samples)


def _num_bytes(loaded: tuple[Pixels, Sample]) -> int:
    return loaded[0].nbytes


def description(sample: Sample) -> str:
    """The text that describes a sample's first image: the answer, or the prompt if the answer is the image.

    Of a prompt in the published wording (facts 4.6) only the description is returned.
    Raises: SampleError if there is no such text.
    """
    texts = [turn.text for turn in sample.turns if turn.role == ("human" if sample.task == "generation" else "gpt")]
    if not texts:
        raise SampleError(f"sample {sample.sample_id}: no text that describes its image")
    return texts[0].split(PROMPT_OPENING, 1)[-1].strip()
