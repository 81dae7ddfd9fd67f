"""Micro-batches of pictures of one anchor each, in an order that is arithmetic: training on images without dialogue.

Legend: B batch, C channels, Y X pixel rows and columns.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import Sample, SampleError
from data_pipelines.images.model_input import input_pixels, open_upright
from data_pipelines.training_data.loader import ByteCache
from data_pipelines.training_data.permutation import Integers, Permutation, epoch_permutation, is_chosen, sample_words
from models.dualvitok.geometry import Size

PROMPT_OPENING = "the content of image is"
COLUMNS = ["sample_id", "images", "offset", "span_bytes", "anchor_h", "anchor_w", "task", "split", "verdict"]
CACHE_BYTES = 512 * 2**20  # of pictures that stay decoded between epochs: all of a small dataset

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    pixels_BCYX: Pixels  # in [-1, 1], cropped to `anchor` times the scale asked for
    samples: tuple[Sample, ...]
    shards: tuple[tuple[int, str], ...]  # number of the dataset and name of the shard of each sample
    anchor: Size


@dataclass(frozen=True, kw_only=True)
class _Place:
    dataset: int
    shard: str
    offset: int
    span: int
    image: str  # SHA-256


class PictureBatches:
    """The distinct first pictures of the kept samples of some datasets, cut into micro-batches of one anchor.

    An epoch shows every picture once; the last micro-batch of an anchor is filled from the start of its order.
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
        """`scale` multiplies the anchor's sides: the diffusion decoder learns pictures of twice the size.
        `parts` cuts each micro-batch into as many of equal size, in the same order; it must divide `batch`.
        `mirrored_share` of the pictures are shown mirrored, others in each epoch.
        `usable` gives the ids of the samples of a dataset (its number) and shard that may be shown; None: all.

        Raises: DatasetError if there is no picture with an anchor.
        """
        self._datasets = [CuratedDataset(folder) for folder in folders]
        if batch % parts:
            raise ValueError(f"parts: {parts} do not divide a micro-batch of {batch}")
        self._batch, self._parts, self._seed, self._scale = batch, parts, seed, scale
        self._mirrored_share = mirrored_share
        self._groups: dict[Size, list[_Place]] = {}
        self._usable = usable
        digest = hashlib.sha256()
        seen: set[str] = set()
        for number, dataset in enumerate(self._datasets):
            for shard in dataset.shards:
                self._add_shard(number, shard, split, tasks, seen, digest)
        if not self._groups:
            wanted = f"split {split!r}" + (f", tasks {', '.join(sorted(tasks))}" if tasks else "")
            raise DatasetError(
                f"{', '.join(map(str, folders))}: no kept picture with an anchor ({wanted}); look at `illume audit`"
            )
        self._digest = digest.hexdigest()
        self._anchors = sorted(self._groups)
        self._counts = [-(-len(self._groups[anchor]) // batch) for anchor in self._anchors]
        self._ready: ByteCache[tuple[Pixels, Sample]] = ByteCache(CACHE_BYTES)

    @property
    def num_pictures(self) -> int:
        return sum(len(places) for places in self._groups.values())

    @property
    def micros_per_epoch(self) -> int:
        """Whole ones, not their parts."""
        return sum(self._counts)

    def micro(self, number: int) -> PictureBatch:
        """The micro-batch with this number, counted from 0 over all epochs.

        Raises: SampleError if a picture that was curated can no longer be read.
        """
        whole, part = divmod(number, self._parts)
        epoch, position = divmod(whole, self.micros_per_epoch)
        slot = int(self._shuffled("micros", self.micros_per_epoch, epoch, [position])[0])
        group = 0
        while slot >= self._counts[group]:
            slot -= self._counts[group]
            group += 1
        anchor = self._anchors[group]
        places = self._groups[anchor]
        size = self._batch // self._parts
        positions = (slot * self._batch + part * size + np.arange(size)) % len(places)
        chosen = [places[index] for index in self._shuffled(f"{anchor}", len(places), epoch, positions)]
        loaded = [self._picture(place, anchor) for place in chosen]
        mirrored = self._mirrored([sample for _, sample in loaded], epoch)
        return PictureBatch(
            pixels_BCYX=np.stack(
                [pixels[:, :, ::-1] if mirror else pixels for (pixels, _), mirror in zip(loaded, mirrored, strict=True)]
            ),
            samples=tuple(sample for _, sample in loaded),
            shards=tuple((place.dataset, place.shard) for place in chosen),
            anchor=anchor,
        )

    def micros_that_showed(self, images: Collection[str], *, before: int) -> dict[str, list[int]]:
        """The micro-batches (whole ones) below number `before` that hold each of some pictures, by SHA-256; in order.

        Computed, not logged: the inverse of `micro`.
        """
        asked = list(dict.fromkeys(images))
        which, numbers = self.exposures(asked, before=before)
        parts = np.split(numbers, np.searchsorted(which, np.arange(1, len(asked)))) if asked else []
        return {image: some.tolist() for image, some in zip(asked, parts, strict=True)}

    def exposures(self, images: Sequence[str], *, before: int) -> tuple[Integers, Integers]:
        """(which of some distinct pictures, number of a whole micro-batch below `before` that holds it); sorted."""
        ranks = {image: rank for rank, image in enumerate(images)}
        found = [np.zeros((2, 0), dtype=np.int64)]
        first_slot = 0
        for anchor, count in zip(self._anchors, self._counts, strict=True):
            places = self._groups[anchor]
            at = [(index, ranks[place.image]) for index, place in enumerate(places) if place.image in ranks]
            indices, which = np.array(at, dtype=np.int64).reshape(-1, 2).T
            for epoch in range(-(-before // self.micros_per_epoch) if at else 0):
                positions = self._order(f"{anchor}", len(places), epoch).position_of(indices)
                # The last micro-batch is filled from the start of the order, again and again if it must be.
                for shift in range(0, count * self._batch, len(places)):
                    repeated = np.flatnonzero(positions + shift < count * self._batch)
                    slots = first_slot + (positions[repeated] + shift) // self._batch
                    numbers = self._order("micros", self.micros_per_epoch, epoch).position_of(slots)
                    found.append(np.stack([which[repeated], epoch * self.micros_per_epoch + numbers]))
            first_slot += count
        pairs = np.unique(np.concatenate(found, axis=1), axis=1)
        pairs = pairs[:, pairs[1] < before]
        return pairs[0], pairs[1]

    def _shuffled(self, what: str, size: int, epoch: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """What stands at some positions of an epoch."""
        return self._order(what, size, epoch).index_at(positions)

    def _order(self, what: str, size: int, epoch: int) -> Permutation:
        return epoch_permutation(size, dataset_digest=f"{self._digest}/{what}", seed=self._seed, epoch=epoch)

    def _mirrored(self, samples: Sequence[Sample], epoch: int) -> list[bool]:
        """Which of the pictures are turned left to right in an epoch; follows from the picture alone."""
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
        return [bool(each) for each in chosen]

    def _picture(self, place: _Place, anchor: Size) -> tuple[Pixels, Sample]:
        return self._ready.get(place, lambda: self._load(place, anchor), _num_bytes)

    def _load(self, place: _Place, anchor: Size) -> tuple[Pixels, Sample]:
        stored = self._datasets[place.dataset].read(place.shard, place.offset, place.span)
        where = f"sample {stored.sample.sample_id}"
        picture = open_upright(stored.image_bytes(0), stored.sample.images[0], where)
        size = (anchor[0] * self._scale, anchor[1] * self._scale)
        return input_pixels(picture, size, crop=True), stored.sample

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
            place = _Place(
                dataset=number, shard=shard, offset=row["offset"], span=row["span_bytes"], image=row["images"][0]
            )
            self._groups.setdefault((row["anchor_h"], row["anchor_w"]), []).append(place)


def names_of(batch: PictureBatch) -> tuple[str, ...]:
    """Ids of the samples of a micro-batch."""
    return tuple(sample.sample_id for sample in batch.samples)


def _num_bytes(loaded: tuple[Pixels, Sample]) -> int:
    return loaded[0].nbytes


def description(sample: Sample) -> str:
    """What a sample says about its first picture: the answer, or the prompt where the answer is the picture.

    Of a prompt in the published wording (facts 4.6) only what the picture shows is given.
    Raises: SampleError if it says nothing.
    """
    texts = [turn.text for turn in sample.turns if turn.role == ("human" if sample.task == "generation" else "gpt")]
    if not texts:
        raise SampleError(f"sample {sample.sample_id}: no text that describes its picture")
    return texts[0].split(PROMPT_OPENING, 1)[-1].strip()
