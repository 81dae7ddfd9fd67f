"""The loader: training data as a function step -> packed rows, independent of workers, process and time."""

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from data_pipelines.datasets.files import is_fetched
from data_pipelines.datasets.reader import CuratedDataset, StoredSample
from data_pipelines.datasets.samples import Sample, SampleError, sample_name
from data_pipelines.images.model_input import input_pixels, input_size, is_cropped, open_upright
from data_pipelines.tokens.conversations import Codes, render, target_slots
from data_pipelines.tokens.token_shards import TokenizerIdentity, TokensError, TokenShard
from data_pipelines.training_data.code_noise import with_semantic_noise
from data_pipelines.training_data.config import LoaderConfig
from data_pipelines.training_data.held_out import first_samples, held_out_samples
from data_pipelines.training_data.index import NO_CODES, IndexedPart, Rendering, open_training_index
from data_pipelines.training_data.order import ScheduledSample, TrainingOrder
from data_pipelines.training_data.packing import PackedRow, PackedSample, build_row, row_starts
from data_pipelines.training_data.sources import SourceFolders

SAMPLE_CACHE_BYTES = 256 * 2**20  # keeps the samples of small datasets between epochs
CODES_CACHE_BYTES = 64 * 2**20
OPEN_TOKEN_SHARDS = 64
V = TypeVar("V")


class TrainingData:
    """The rows of a mixture of datasets, read through an index from `build_training_index`. Thread-safe."""

    def __init__(
        self, sources: Sequence[SourceFolders], config: LoaderConfig, rendering: Rendering, index: Path
    ) -> None:
        opened = open_training_index(index, config, rendering)
        self.order = TrainingOrder(opened, config)
        self.dropped = opened.dropped  # reason -> samples that are never trained
        self._config, self._rendering, self._index = config, rendering, opened
        codes = CodesReader(opened.tokenizer)
        self._parts = [
            _PartReader(indexed, sources[part.dataset], rendering, codes)
            for indexed, part in zip(opened.parts, config.parts, strict=True)
        ]
        self._cache: ByteCache[PackedSample] = ByteCache(SAMPLE_CACHE_BYTES)

    def row(self, row: int) -> PackedRow:
        """Packed row number `row`, counted over the whole training.

        Raises: SampleError, DatasetError, TokensError if stored data are damaged.
        """
        return build_row(
            [self._read_sample(scheduled) for scheduled in self.order.samples_of(row)],
            row_tokens=self._config.row_tokens,
            pad_id=self._rendering.tokenizer.end_of_text_id,
        )

    def stored(self, row: int) -> list[StoredSample]:
        """The samples of a row as they are stored, in their order."""
        return [self._parts[scheduled.part].stored(scheduled)[1] for scheduled in self.order.samples_of(row)]

    def read_ahead(self, row: int) -> None:
        """Begin to fetch the shards of a row that is needed soon; does nothing where all are on this machine."""
        if any(part.is_fetched for part in self._parts):
            for scheduled in self.order.samples_of(row):
                self._parts[scheduled.part].read_ahead(scheduled)

    def held_out_rows(self, num_samples: int) -> list[PackedRow]:
        """Rows of the first held-out samples, the same for each call; fewer samples if there are not as many.

        Raises: as `row`.
        """
        return self._packed(held_out_samples(self._index, num_samples))

    def first_rows(self, num_samples: int) -> list[PackedRow]:
        """The same of the first samples that are not held out: of an index that was made to judge a model by."""
        return self._packed(first_samples(self._index, num_samples))

    def _packed(self, chosen: Sequence[ScheduledSample]) -> list[PackedRow]:
        samples = [self._sample(scheduled) for scheduled in chosen]
        lengths = np.array([len(sample.ids) for sample in samples], dtype=np.int64)
        bounds = [0, *row_starts(lengths, self._config.row_tokens), len(samples)]
        return [
            build_row(
                samples[start:stop],
                row_tokens=self._config.row_tokens,
                pad_id=self._rendering.tokenizer.end_of_text_id,
            )
            for start, stop in itertools.pairwise(bounds)
            if stop > start
        ]

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[PackedRow]:
        """The rows of a step: all of them, or those of one of several workers."""
        return [self.row(row) for row in self.order.rows_of_step(step, rank=rank, world_size=world_size)]

    def batches(
        self, first_step: int, last_step: int, *, rank: int = 0, world_size: int = 1, threads: int = 1
    ) -> Iterator[tuple[int, list[PackedRow]]]:
        """(step, rows) of the steps from `first_step` to before `last_step`; threads build one step ahead."""
        ahead: deque[tuple[int, list[Future[PackedRow]]]] = deque()
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for step in range(first_step, last_step):
                rows = self.order.rows_of_step(step, rank=rank, world_size=world_size)
                ahead.append((step, [pool.submit(self.row, row) for row in rows]))
                if len(ahead) > 1:
                    ready, futures = ahead.popleft()
                    yield ready, [future.result() for future in futures]
            while ahead:
                ready, futures = ahead.popleft()
                yield ready, [future.result() for future in futures]

    def _read_sample(self, scheduled: ScheduledSample) -> PackedSample:
        """The sample as the model reads it while it learns."""
        sample, config = self._sample(scheduled), self._config
        if not config.semantic_noise:
            return sample
        return with_semantic_noise(
            sample,
            self._rendering.vocabulary,
            share=config.semantic_noise,
            seed=config.seed,
            epoch=scheduled.epoch,
        )

    def _sample(self, scheduled: ScheduledSample) -> PackedSample:
        key = (scheduled.part, scheduled.index, scheduled.condition_dropped)
        return self._cache.get(key, lambda: self._parts[scheduled.part].load(scheduled), sample_bytes)


class _PartReader:
    """Reads the samples of one part of the mixture and renders them."""

    def __init__(self, part: IndexedPart, source: SourceFolders, rendering: Rendering, codes: "CodesReader") -> None:
        self._part, self._source, self._rendering, self._codes = part, source, rendering, codes
        self._dataset = CuratedDataset(source.dataset)

    @property
    def is_fetched(self) -> bool:
        return is_fetched(self._dataset.folder)

    def read_ahead(self, scheduled: ScheduledSample) -> None:
        self._dataset.read_ahead(*self._span(scheduled))

    def load(self, scheduled: ScheduledSample) -> PackedSample:
        rendering = self._rendering
        shard, stored = self.stored(scheduled)
        sample = stored.sample
        if sample.sample_id != scheduled.sample_id:
            raise SampleError(
                f"shard {shard} holds sample {sample.sample_id} where the index says {scheduled.sample_id}; "
                "the dataset has changed, build the index again"
            )
        rendered = render(
            sample,
            tokenizer=rendering.tokenizer,
            vocabulary=rendering.vocabulary,
            sizes=rendering.sizes,
            codes=self._target_codes(sample, scheduled, shard),
            drop_condition=scheduled.condition_dropped,
        )
        images = []
        for slot in rendered.images:
            where = f"sample {sample.sample_id}, image {slot}"
            image = open_upright(stored.image_bytes(slot), sample.images[slot], where)
            size, crop = input_size(sample, slot, rendering.sizes), is_cropped(sample, slot, rendering.sizes)
            images.append(input_pixels(image, size, crop=crop))
        return PackedSample(
            ids=rendered.ids,
            labels=rendered.labels,
            images=images,
            name=sample_name(sample),
            part=scheduled.part,
        )

    def stored(self, scheduled: ScheduledSample) -> tuple[str, StoredSample]:
        """The sample's shard, and the sample as it is in there."""
        shard, offset, span = self._span(scheduled)
        return shard, self._dataset.read(shard, offset, span)

    def _span(self, scheduled: ScheduledSample) -> tuple[str, int, int]:
        """Shard, first byte and bytes of a sample."""
        part, at = self._part, scheduled.index
        return part.shard_names[int(part.shards[at])], int(part.offsets[at]), int(part.spans[at])

    def _target_codes(self, sample: Sample, scheduled: ScheduledSample, shard: str) -> dict[int, Codes]:
        slots = target_slots(sample, drop_condition=scheduled.condition_dropped)
        first_row = int(self._part.token_rows[scheduled.index])
        if not slots or first_row == NO_CODES:
            return {}
        path = self._source.token_shard(shard)
        return {slot: self._codes.read(path, first_row + slot) for slot in slots}


class CodesReader:
    """Reads codes by shard and row; keeps recently used row groups and open shards in memory. Thread-safe."""

    def __init__(self, tokenizer: TokenizerIdentity | None) -> None:
        self._tokenizer = tokenizer
        self._open = lru_cache(maxsize=OPEN_TOKEN_SHARDS)(self._open_shard)
        self._groups: ByteCache[dict[int, Codes]] = ByteCache(CODES_CACHE_BYTES)
        self._lock = threading.Lock()

    def read(self, path: Path, row: int) -> Codes:
        """The codes in a row of a shard.

        Raises: TokensError if the shard is damaged, lacks the row, or is of another tokenizer.
        """
        with self._lock:  # only one thread may read a Parquet file at a time
            shard = self._open(path)
            if row >= shard.num_rows:
                raise TokensError(f"{path}: no row {row}, it has {shard.num_rows} rows; build the index again")
            group = shard.group_of(row)
            codes = self._groups.get((path, group), lambda: _codes_by_row(shard, group), _num_codes_bytes)
        return codes[row]

    def _open_shard(self, path: Path) -> TokenShard:
        shard = TokenShard(path)
        if self._tokenizer is not None and shard.tokenizer != self._tokenizer:
            raise TokensError(
                f"{path}: made by tokenizer {shard.tokenizer.sha256[:12]}, the index expects "
                f"{self._tokenizer.sha256[:12]}; build the index again"
            )
        return shard


class ByteCache(Generic[V]):
    """A cache of the most recently used values, limited in bytes. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used_bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], num_bytes: Callable[[V], int]) -> V:
        """The value of `key`, made by `make` if it is not cached."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = (value, num_bytes(value))
                self._used_bytes += self._values[key][1]
            while self._used_bytes > self._max_bytes:
                self._used_bytes -= self._values.popitem(last=False)[1][1]
        return value


def sample_bytes(sample: PackedSample) -> int:
    return sample.ids.nbytes + sample.labels.nbytes + sum(image.nbytes for image in sample.images)


def _codes_by_row(shard: TokenShard, group: int) -> dict[int, Codes]:
    return {
        row: (block.semantic_NYX[index], block.pixel_NYX[index])
        for block in shard.read_group(group)
        for index, row in enumerate(block.rows.tolist())
    }


def _num_codes_bytes(codes: dict[int, Codes]) -> int:
    return sum(semantic.nbytes + pixel.nbytes for semantic, pixel in codes.values())
