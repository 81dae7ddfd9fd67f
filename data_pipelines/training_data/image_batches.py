"""Micro-batches of images, each of a single anchor, in a computed order: for training on images without dialogue.

Legend: B batch, C channels, Y X pixel rows and columns.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import Sample, SampleError, sample_name
from data_pipelines.images.model_input import input_pixels, open_upright
from data_pipelines.training_data.loader import ByteCache
from data_pipelines.training_data.permutation import Integers, Permutation, epoch_permutation, is_chosen, sample_words
from models.dualvitok.geometry import Size

PROMPT_OPENING = "the content of image is"
COLUMNS = ["sample_id", "images", "offset", "span_bytes", "anchor_h", "anchor_w", "task", "split", "verdict"]
CACHE_BYTES = 512 * 2**20  # of decoded images kept between epochs: all of a small dataset

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    pixels_BCYX: Pixels  # in [-1, 1], cropped to `anchor` times the scale
    samples: tuple[Sample, ...]
    shards: tuple[tuple[int, str], ...]  # index of the dataset and name of the shard of each sample
    anchor: Size


@dataclass(frozen=True, kw_only=True)
class _ImageLocation:
    dataset: int
    shard: str
    offset: int
    span: int
    image: str  # SHA-256


class ImageBatches:
    """The distinct first images of the kept samples of some datasets, grouped into micro-batches of one anchor.

    An epoch shows every image once; the last micro-batch of an anchor is filled up from the start of its order.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        split: str,
        tasks: Collection[str] | None,
        batch: int,
        seed: int,
        scale: int = 1,
        usable: Callable[[int, str], Collection[str]] | None = None,
        parts: int = 1,
        mirrored_share: float = 0.0,
    ) -> None:
        """`scale` multiplies the anchor's sides: the diffusion decoder is trained on images of twice the size.
        `parts` splits each micro-batch into as many of equal size, in the same order; it must divide `batch`.
        `mirrored_share` of the images are mirrored, a different choice in each epoch.
        `usable` returns the ids of the usable samples of a dataset (its index) and shard; None: all are usable.

        Raises: DatasetError if there is no image with an anchor.
        """
        self._datasets = [CuratedDataset(folder) for folder in folders]
        if batch % parts:
            raise ValueError(f"parts: {parts} do not divide a micro-batch of {batch}")
        self._batch, self._parts, self._seed, self._scale = batch, parts, seed, scale
        self._mirrored_share = mirrored_share
        self._by_anchor: dict[Size, list[_ImageLocation]] = {}
        self._usable = usable
        digest = hashlib.sha256()
        seen: set[str] = set()
        for number, dataset in enumerate(self._datasets):
            for shard in dataset.shards:
                self._add_shard(number, shard, split, tasks, seen, digest)
        if not self._by_anchor:
            wanted = f"split {split!r}" + (f", tasks {', '.join(sorted(tasks))}" if tasks else "")
            raise DatasetError(
                f"{', '.join(map(str, folders))}: no kept image with an anchor ({wanted}); look at `illume audit`"
            )
        self._digest = digest.hexdigest()
        self._anchors = sorted(self._by_anchor)
        self._counts = [-(-len(self._by_anchor[anchor]) // batch) for anchor in self._anchors]
        self._cache: ByteCache[tuple[Pixels, Sample]] = ByteCache(CACHE_BYTES)

    @property
    def num_images(self) -> int:
        return sum(len(locations) for locations in self._by_anchor.values())

    @property
    def micro_batches_per_epoch(self) -> int:
        """Number of whole micro-batches, not of their parts."""
        return sum(self._counts)

    @property
    def order(self) -> str:
        """Digest of everything that decides which images are in which micro-batch."""
        settings = [self._digest, self._batch, self._parts, self._seed, self._scale, self._mirrored_share]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def micro_batch(self, number: int) -> ImageBatch:
        """The micro-batch with this number, counted from 0 over all epochs.

        Raises: SampleError if an image that was curated can no longer be read.
        """
        whole, part = divmod(number, self._parts)
        epoch, position = divmod(whole, self.micro_batches_per_epoch)
        slot = int(self._shuffled("micros", self.micro_batches_per_epoch, epoch, [position])[0])
        group = 0
        while slot >= self._counts[group]:
            slot -= self._counts[group]
            group += 1
        anchor = self._anchors[group]
        locations = self._by_anchor[anchor]
        size = self._batch // self._parts
        positions = (slot * self._batch + part * size + np.arange(size)) % len(locations)
        chosen = [locations[index] for index in self._shuffled(f"{anchor}", len(locations), epoch, positions)]
        loaded = [self._image(location, anchor) for location in chosen]
        mirrored = self._mirrored([sample for _, sample in loaded], epoch)
        return ImageBatch(
            pixels_BCYX=np.stack(
                [pixels[:, :, ::-1] if mirror else pixels for (pixels, _), mirror in zip(loaded, mirrored, strict=True)]
            ),
            samples=tuple(sample for _, sample in loaded),
            shards=tuple((location.dataset, location.shard) for location in chosen),
            anchor=anchor,
        )

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
        ranks = {image: rank for rank, image in enumerate(images)}
        found = [np.zeros((2, 0), dtype=np.int64)]
        first_slot = 0
        for anchor, count in zip(self._anchors, self._counts, strict=True):
            locations = self._by_anchor[anchor]
            at = [(index, ranks[found.image]) for index, found in enumerate(locations) if found.image in ranks]
            indices, which = np.array(at, dtype=np.int64).reshape(-1, 2).T
            for epoch in range(-(-before // self.micro_batches_per_epoch) if at else 0):
                positions = self._order(f"{anchor}", len(locations), epoch).position_of(indices)
                # The last micro-batch is filled up from the start of the order, several times if needed.
                for shift in range(0, count * self._batch, len(locations)):
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
        return epoch_permutation(size, dataset_digest=f"{self._digest}/{group}", seed=self._seed, epoch=epoch)

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

    def _image(self, location: _ImageLocation, anchor: Size) -> tuple[Pixels, Sample]:
        return self._cache.get(location, lambda: self._load(location, anchor), _num_bytes)

    def _load(self, location: _ImageLocation, anchor: Size) -> tuple[Pixels, Sample]:
        stored = self._datasets[location.dataset].read(location.shard, location.offset, location.span)
        where = f"sample {stored.sample.sample_id}"
        image = open_upright(stored.image_bytes(0), stored.sample.images[0], where)
        size = (anchor[0] * self._scale, anchor[1] * self._scale)
        return input_pixels(image, size, crop=True), stored.sample

    def _add_shard(
        self,
        number: int,
        shard: str,
        split: str,
        tasks: Collection[str] | None,
        seen: set[str],
        digest: "hashlib._Hash",
    ) -> None:
        path = self._datasets[number].folder / "ledger" / f"{shard}.parquet"
        try:
            table = pq.read_table(path, columns=COLUMNS, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
        chosen = pc.and_(pc.equal(table["verdict"], "keep"), pc.equal(table["split"], split))
        if tasks is not None:
            chosen = pc.and_(chosen, pc.is_in(table["task"], pa.array(sorted(tasks), pa.string())))
        rows = table.filter(chosen).to_pylist()
        usable = self._usable(number, shard) if self._usable is not None and rows else None
        for row in rows:
            if usable is not None and row["sample_id"] not in usable:
                continue
            if not row["images"] or not row["anchor_h"] or row["images"][0] in seen:
                continue
            seen.add(row["images"][0])
            digest.update(row["images"][0].encode())
            location = _ImageLocation(
                dataset=number, shard=shard, offset=row["offset"], span=row["span_bytes"], image=row["images"][0]
            )
            self._by_anchor.setdefault((row["anchor_h"], row["anchor_w"]), []).append(location)


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
