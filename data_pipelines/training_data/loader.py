"""Training data as a function: step -> packed rows, the same on any number of workers, in any process, at any time."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import Sample, SampleError
from data_pipelines.images.model_input import input_pixels, input_size, is_cropped, open_upright
from data_pipelines.tokens.conversations import Codes, render, target_slots
from data_pipelines.tokens.token_shards import TokenizerIdentity, TokensError, TokenShard
from data_pipelines.training_data.config import LoaderConfig
from data_pipelines.training_data.index import (
    NO_CODES,
    IndexedPart,
    Rendering,
    SourceFolders,
    open_training_index,
)
from data_pipelines.training_data.order import SeenSample, TrainingOrder
from data_pipelines.training_data.packing import PackedRow, PackedSample, build_row

SAMPLE_CACHE_BYTES = 256 * 2**20  # samples of small data sets stay ready between epochs
CODES_CACHE_BYTES = 64 * 2**20
OPEN_TOKEN_SHARDS = 64
V = TypeVar("V")


class TrainingData:
    """The rows of a mixture of data sets. Opens the index that `build_training_index` made. Safe for threads."""

    def __init__(
        self, sources: Sequence[SourceFolders], config: LoaderConfig, rendering: Rendering, index: Path
    ) -> None:
        opened = open_training_index(index, config, rendering)
        self.order = TrainingOrder(opened, config)
        self.left_out = opened.left_out  # reason -> samples that are never trained
        self._config, self._rendering = config, rendering
        codes = CodesReader(opened.tokenizer)
        self._parts = [
            _PartReader(indexed, sources[part.dataset], rendering, codes)
            for indexed, part in zip(opened.parts, config.parts, strict=True)
        ]
        self._ready: ByteCache[PackedSample] = ByteCache(SAMPLE_CACHE_BYTES)

    def row(self, row: int) -> PackedRow:
        """One packed row, counted over the whole training.

        Raises: SampleError, DatasetError, TokensError if stored data are damaged.
        """
        return build_row(
            [self._sample(seen) for seen in self.order.samples_of(row)],
            row_tokens=self._config.row_tokens,
            pad_id=self._rendering.tokenizer.end_of_text_id,
        )

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> list[PackedRow]:
        """The rows of a step, all or those of one of several workers."""
        return [self.row(row) for row in self.order.rows_of_step(step, rank=rank, world=world)]

    def batches(
        self, first_step: int, last_step: int, *, rank: int = 0, world: int = 1, threads: int = 1
    ) -> Iterator[tuple[int, list[PackedRow]]]:
        """(step, rows) of the steps before `last_step`; threads build one step ahead."""
        ahead: deque[tuple[int, list[Future[PackedRow]]]] = deque()
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for step in range(first_step, last_step):
                rows = self.order.rows_of_step(step, rank=rank, world=world)
                ahead.append((step, [pool.submit(self.row, row) for row in rows]))
                if len(ahead) > 1:
                    ready, futures = ahead.popleft()
                    yield ready, [future.result() for future in futures]
            while ahead:
                ready, futures = ahead.popleft()
                yield ready, [future.result() for future in futures]

    def _sample(self, seen: SeenSample) -> PackedSample:
        key = (seen.part, seen.index, seen.condition_dropped)
        return self._ready.get(key, lambda: self._parts[seen.part].load(seen), num_sample_bytes)


class _PartReader:
    """Reads the samples of one part of the mixture and renders them."""

    def __init__(self, part: IndexedPart, source: SourceFolders, rendering: Rendering, codes: "CodesReader") -> None:
        self._part, self._source, self._rendering, self._codes = part, source, rendering, codes
        self._dataset = CuratedDataset(source.dataset)

    def load(self, seen: SeenSample) -> PackedSample:
        part, rendering = self._part, self._rendering
        shard = part.shard_names[int(part.shards[seen.index])]
        stored = self._dataset.read(shard, int(part.offsets[seen.index]), int(part.spans[seen.index]))
        sample = stored.sample
        if sample.sample_id != seen.sample_id:
            raise SampleError(
                f"shard {shard} holds sample {sample.sample_id} where the index says {seen.sample_id}; "
                "the data set has changed, build the index again"
            )
        rendered = render(
            sample,
            tokenizer=rendering.tokenizer,
            vocabulary=rendering.vocabulary,
            sizes=rendering.sizes,
            codes=self._target_codes(sample, seen, shard),
            drop_condition=seen.condition_dropped,
        )
        images = []
        for slot in rendered.images:
            where = f"sample {sample.sample_id}, image {slot}"
            picture = open_upright(stored.image_bytes(slot), sample.images[slot], where)
            size, crop = input_size(sample, slot, rendering.sizes), is_cropped(sample, slot, rendering.sizes)
            images.append(input_pixels(picture, size, crop=crop))
        return PackedSample(ids=rendered.ids, labels=rendered.labels, images=images)

    def _target_codes(self, sample: Sample, seen: SeenSample, shard: str) -> dict[int, Codes]:
        slots = target_slots(sample, drop_condition=seen.condition_dropped)
        first_row = int(self._part.token_rows[seen.index])
        if not slots or first_row == NO_CODES:
            return {}
        path = self._source.token_shard(shard)
        return {slot: self._codes.read(path, first_row + slot) for slot in slots}


class CodesReader:
    """Codes by shard and row; row groups and open shards that were used last stay in memory. Safe for threads."""

    def __init__(self, tokenizer: TokenizerIdentity | None) -> None:
        self._tokenizer = tokenizer
        self._open = lru_cache(maxsize=OPEN_TOKEN_SHARDS)(self._open_shard)
        self._groups: ByteCache[dict[int, Codes]] = ByteCache(CODES_CACHE_BYTES)
        self._lock = threading.Lock()

    def read(self, path: Path, row: int) -> Codes:
        """Raises: TokensError if the shard is damaged, lacks the row, or is of another tokenizer."""
        with self._lock:  # a Parquet file is read by one thread at a time
            shard = self._open(path)
            if row >= shard.num_rows:
                raise TokensError(f"{path}: row {row} asked for; it has {shard.num_rows}; build the index again")
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
    """The values used last, as many as fit into a number of bytes. Safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used_bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], num_bytes: Callable[[V], int]) -> V:
        """The value under `key`, made if it is not there."""
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


def num_sample_bytes(sample: PackedSample) -> int:
    return sample.ids.nbytes + sample.labels.nbytes + sum(image.nbytes for image in sample.images)


def _codes_by_row(shard: TokenShard, group: int) -> dict[int, Codes]:
    return {
        row: (block.semantic_NYX[place], block.pixel_NYX[place])
        for block in shard.read_group(group)
        for place, row in enumerate(block.rows.tolist())
    }


def _num_codes_bytes(codes: dict[int, Codes]) -> int:
    return sum(semantic.nbytes + pixel.nbytes for semantic, pixel in codes.values())
