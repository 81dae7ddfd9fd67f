"""Making the index of the training data: the tables of all shards, put together into columns, in bounded memory."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import TASKS_WITH_TARGETS
from data_pipelines.tokens.token_shards import TokenizerIdentity, TokenShard, require_one_tokenizer
from data_pipelines.training_data.columns import ColumnWriter, writing_columns
from data_pipelines.training_data.config import LoaderConfig, LoadingError, LoadingGuards, MixturePart
from data_pipelines.training_data.ids import ids_of, is_held_out
from data_pipelines.training_data.index import (
    COLUMNS,
    DROPPABLE,
    DROPPED_FILE,
    HELD_OUT,
    INDEX_FORMAT,
    META_FILE,
    Rendering,
    TrainingIndex,
    check_dropped,
    index_settings,
    open_training_index,
)
from data_pipelines.training_data.sample_rows import SampleSelection, sample_rows
from data_pipelines.training_data.sources import SourceFolders

DEFAULT_GUARDS = LoadingGuards()


def build_training_index(
    sources: Sequence[SourceFolders],
    config: LoaderConfig,
    rendering: Rendering,
    out: Path,
    guards: LoadingGuards = DEFAULT_GUARDS,
) -> TrainingIndex:
    """Write the index into the empty folder `out` in this process, and open it; see `merge_samples`."""
    check_sources(sources, config, rendering)

    def tables(part: MixturePart) -> Iterator[Any]:
        source, selection = sources[part.dataset], selection_of(part, config)
        for shard in CuratedDataset(source.dataset).shards:
            yield sample_rows(source, shard, selection, rendering)

    return merge_samples(sources, config, rendering, out, map(tables, config.parts), guards)


def selection_of(part: MixturePart, config: LoaderConfig) -> SampleSelection:
    return SampleSelection(split=part.split, tasks=tuple(sorted(part.tasks)), drops_conditions=config.drops_conditions)


def merge_samples(
    sources: Sequence[SourceFolders],
    config: LoaderConfig,
    rendering: Rendering,
    out: Path,
    tables: Iterable[Iterable[Any]],
    guards: LoadingGuards = DEFAULT_GUARDS,
) -> TrainingIndex:
    """Write the index into the empty folder `out` and open it. `tables`: for each part that of each shard, in order.

    Raises: LoadingError if a part is empty or too many samples are dropped; TokensError: several tokenizers made codes.
    """
    tokenizer = require_one_tokenizer(_token_shards(sources, config))
    shards = [CuratedDataset(sources[part.dataset].dataset).shards for part in config.parts]
    columns = write_columns(out, config, shards, tables)
    for number, part in enumerate(config.parts):
        if not columns.parts[number]["num_samples"]:
            raise LoadingError(
                f"parts[{number}]: {sources[part.dataset].dataset} has no kept sample of split {part.split!r} with "
                f"tasks {', '.join(part.tasks)}; look at `illume audit`, or leave the part out"
            )
    check_dropped(columns.dropped, sum(part["num_samples"] for part in columns.parts), guards, out)
    meta = {
        "format": INDEX_FORMAT,
        "settings": index_settings(config, rendering),
        "tokenizer": asdict(tokenizer) if tokenizer else None,
        "dropped": dict(columns.dropped),
        **({"held_out": columns.held_out} if config.held_out_share else {}),
        "parts": columns.parts,
    }
    (out / META_FILE).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return open_training_index(out, config, rendering)


@dataclass(frozen=True, kw_only=True)
class WrittenColumns:
    parts: list[dict[str, Any]]  # the entry of each in the index
    dropped: Counter[str]
    held_out: int


def write_columns(
    out: Path, config: LoaderConfig, shards: Sequence[Sequence[str]], tables: Iterable[Iterable[Any]]
) -> WrittenColumns:
    """Write the columns of all parts. `shards`: for each part the names of those that `tables` are of."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Any]] = []
    with (out / DROPPED_FILE).open("w", encoding="utf-8") as rejects:
        merger = _Merger(config, rejects)
        for number, (names, of_shards) in enumerate(zip(shards, tables, strict=True)):
            with writing_columns(out, f"part-{number}.", COLUMNS) as writer:
                parts.append(merger.merge(number, names, of_shards, writer))
    return WrittenColumns(parts=parts, dropped=merger.dropped, held_out=merger.held_out)


class _Merger:
    """Appends the tables of shards to columns, and lists the dropped samples with their reasons."""

    def __init__(self, config: LoaderConfig, rejects: IO[str]) -> None:
        self._config, self._rejects = config, rejects
        self.dropped: Counter[str] = Counter()
        self.held_out = 0

    def merge(self, number: int, shards: Sequence[str], tables: Iterable[Any], writer: ColumnWriter) -> dict[str, Any]:
        """Write the columns of a part; returns its entry in the index."""
        ids_digest, lengths_digest = hashlib.sha256(), hashlib.sha256()
        for shard_number, (_, table) in enumerate(zip(shards, tables, strict=True)):
            columns = self._columns(number, shard_number, table, first_index=writer.num_rows)
            writer.append(columns)
            ids_digest.update(columns["ids"].tobytes())
            lengths_digest.update(columns["lengths"].tobytes())
        return {
            "num_samples": writer.num_rows,
            "shard_names": list(shards),
            "digest": ids_digest.hexdigest(),
            "lengths_digest": lengths_digest.hexdigest(),
        }

    def _columns(self, part: int, shard: int, table: Any, *, first_index: int) -> dict[str, npt.NDArray[Any]]:
        ids = ids_of(table["sample_id"].to_pylist())
        both = [table[name].to_numpy() for name in ("length", "length_without_condition")]
        lengths = np.stack(both, axis=1).astype("<i4")
        longest = lengths.max(axis=1, initial=0)
        flags = np.where(table["droppable"].to_numpy(), DROPPABLE, 0).astype(np.uint8)
        row_tokens = self._config.row_tokens
        is_untrained = (longest > row_tokens) | pc.not_equal(table["reason"], "").to_numpy()
        lengths[is_untrained] = 0
        for row in np.flatnonzero(is_untrained).tolist():
            sample_id = ids[row].tobytes().hex()
            reason, detail = table["reason"][row].as_py(), table["detail"][row].as_py()
            if not reason:
                reason, detail = "too_long", f"sample {sample_id}: {longest[row]} tokens in rows of {row_tokens}"
            self.dropped[reason] += 1
            line = {"part": part, "index": first_index + row, "sample_id": sample_id}
            self._rejects.write(json.dumps({**line, "reason": reason, "detail": detail}, ensure_ascii=False) + "\n")
        if self._config.held_out_share:
            is_out = is_held_out(ids, table["sha256"].to_pylist(), self._config.held_out_share)
            flags[is_out] |= HELD_OUT
            self.held_out += int(is_out.sum())
        return {
            "ids": ids,
            "shards": np.full(len(ids), shard, dtype=np.int32),
            "offsets": table["offset"].to_numpy(),
            "spans": table["span"].to_numpy(),
            "token_rows": table["token_row"].to_numpy(),
            "flags": flags,
            "lengths": lengths,
        }


def check_sources(sources: Sequence[SourceFolders], config: LoaderConfig, rendering: Rendering) -> None:
    """Raises: LoadingError if a part needs a dataset or tokens that are not given, or others; TokensError."""
    for number, part in enumerate(config.parts):
        if part.dataset >= len(sources):
            raise LoadingError(
                f"parts[{number}].dataset: {part.dataset}, but there are {len(sources)} datasets, from 0"
            )
        with_targets = sorted(set(part.tasks) & set(TASKS_WITH_TARGETS))
        if with_targets and sources[part.dataset].tokens is None:
            raise LoadingError(
                f"parts[{number}].tasks: {', '.join(with_targets)} need image tokens, but dataset {part.dataset} has "
                "none; give the stage the tokens of this dataset"
            )
    tokenizer = require_one_tokenizer(_token_shards(sources, config))
    if tokenizer is not None:
        _check_codebooks(tokenizer, rendering)


def _token_shards(sources: Sequence[SourceFolders], config: LoaderConfig) -> Iterator[TokenShard]:
    for number in sorted({part.dataset for part in config.parts if set(part.tasks) & set(TASKS_WITH_TARGETS)}):
        source = sources[number]
        for shard in CuratedDataset(source.dataset).shards:
            if source.tokens is not None and source.token_shard(shard).is_file():
                yield TokenShard(source.token_shard(shard))


def _check_codebooks(tokenizer: TokenizerIdentity, rendering: Rendering) -> None:
    vocabulary = rendering.vocabulary
    found = (tokenizer.semantic_codes, tokenizer.pixel_codes, tokenizer.pixel_factor)
    expected = (vocabulary.semantic_codes, vocabulary.pixel_codes, rendering.sizes.pixel_factor)
    if found != expected:
        raise LoadingError(
            f"the tokens have codebooks of {found[0]} + {found[1]} and a pixel factor of {found[2]}, but the "
            f"vocabulary was made for {expected[0]} + {expected[1]} and {expected[2]}; "
            "make both from the same image tokenizer"
        )
