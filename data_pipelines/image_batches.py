"""Micro-batches of pictures of one anchor each, in an order that is arithmetic: training on images without dialogue.

Legend: B batch, C channels, Y X pixel rows and columns.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.dataset_reader import CuratedDataset, DatasetError, StoredSample
from data_pipelines.input_images import input_pixels, open_upright
from data_pipelines.order import epoch_permutation
from data_pipelines.samples import SampleError
from models.dualvitok.geometry import Size

COLUMNS = ["images", "offset", "span_bytes", "anchor_h", "anchor_w", "task", "split", "verdict"]
CACHED_SAMPLES = 16_384  # decoded samples kept in memory: all of a small dataset, a sliver of a large one


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    pixels_BCYX: npt.NDArray[np.float32]  # in [-1, 1], cropped to `anchor` times the scale asked for
    samples: tuple[StoredSample, ...]
    shards: tuple[tuple[int, str], ...]  # number of the dataset and name of the shard of each sample
    anchor: Size


@dataclass(frozen=True, kw_only=True)
class _Place:
    dataset: int
    shard: str
    offset: int
    span: int


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
    ) -> None:
        """`scale` multiplies the anchor's sides: the diffusion decoder learns pictures of twice the size.

        Raises: DatasetError if there is no picture with an anchor.
        """
        self._datasets = [CuratedDataset(folder) for folder in folders]
        self._batch, self._seed, self._scale = batch, seed, scale
        self._groups: dict[Size, list[_Place]] = {}
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
        self._read = lru_cache(maxsize=CACHED_SAMPLES)(self._load)

    @property
    def num_pictures(self) -> int:
        return sum(len(places) for places in self._groups.values())

    @property
    def micros_per_epoch(self) -> int:
        return sum(self._counts)

    def micro(self, number: int) -> PictureBatch:
        """The micro-batch with this number, counted from 0 over all epochs.

        Raises: SampleError if a picture that was curated can no longer be read.
        """
        epoch, position = divmod(number, self.micros_per_epoch)
        order = self._permutation(f"{self._digest}/micros", self.micros_per_epoch, epoch)
        slot = int(order[position])
        group = 0
        while slot >= self._counts[group]:
            slot -= self._counts[group]
            group += 1
        anchor = self._anchors[group]
        places = self._groups[anchor]
        within = self._permutation(f"{self._digest}/{anchor}", len(places), epoch)
        chosen = [places[within[(slot * self._batch + row) % len(places)]] for row in range(self._batch)]
        loaded = [self._read(place, anchor) for place in chosen]
        return PictureBatch(
            pixels_BCYX=np.stack([pixels for pixels, _ in loaded]),
            samples=tuple(sample for _, sample in loaded),
            shards=tuple((place.dataset, place.shard) for place in chosen),
            anchor=anchor,
        )

    def _permutation(self, key: str, size: int, epoch: int) -> npt.NDArray[np.int64]:
        return _whole_permutation(size, key, self._seed, epoch)

    def _load(self, place: _Place, anchor: Size) -> tuple[npt.NDArray[np.float32], StoredSample]:
        stored = self._datasets[place.dataset].read(place.shard, place.offset, place.span)
        where = f"sample {stored.sample.sample_id}"
        picture = open_upright(stored.image_bytes(0), stored.sample.images[0], where)
        size = (anchor[0] * self._scale, anchor[1] * self._scale)
        return input_pixels(picture, size, crop=True), stored

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
        for row in table.filter(chosen).to_pylist():
            if not row["images"] or not row["anchor_h"] or row["images"][0] in seen:
                continue
            seen.add(row["images"][0])
            digest.update(row["images"][0].encode())
            place = _Place(dataset=number, shard=shard, offset=row["offset"], span=row["span_bytes"])
            self._groups.setdefault((row["anchor_h"], row["anchor_w"]), []).append(place)


@lru_cache(maxsize=64)
def _whole_permutation(size: int, key: str, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    permutation = epoch_permutation(size, dataset_digest=key, seed=seed, epoch=epoch)
    return permutation.index_at(np.arange(size))


def description(stored: StoredSample) -> str:
    """What a sample says about its first picture: the answer, or the prompt where the answer is the picture."""
    sample = stored.sample
    texts = [turn.text for turn in sample.turns if turn.role == ("human" if sample.task == "generation" else "gpt")]
    if not texts:
        raise SampleError(f"sample {sample.sample_id}: no text that describes its picture")
    return texts[0]
