"""The index of the training data: location, lengths and codes of every sample of a mixture, in memory-mapped files.

Built once, shard by shard, in bounded memory; then opened by every worker. Samples that cannot be trained keep their
position in the order with length 0, and are listed with their reason in `dropped.jsonl`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.reader import CuratedDataset, ShardRows
from data_pipelines.datasets.samples import TASKS_WITH_TARGETS, Sample, SampleError
from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.conversations import can_drop_condition, rendered_lengths, target_slots
from data_pipelines.tokens.text_tokenizer import ChatTokenizer
from data_pipelines.tokens.token_shards import TokenizerIdentity, TokenShard, require_one_tokenizer
from data_pipelines.training_data.config import LoaderConfig, LoadingError, LoadingGuards, MixturePart
from data_pipelines.training_data.sources import SourceFolders
from models.mllm.vocabulary import VisionVocabulary

INDEX_FORMAT = 2
META_FILE, DROPPED_FILE = "index.json", "dropped.jsonl"
NO_CODES = -1
DEFAULT_GUARDS = LoadingGuards()
DROPPABLE = 1  # flag: the condition of the sample can be dropped
BATCH = 512  # samples whose texts are tokenized together
COLUMNS: dict[str, tuple[str, int]] = {  # name -> dtype, values per sample
    "ids": ("u1", 32),
    "shards": ("<i4", 1),
    "offsets": ("<i8", 1),
    "spans": ("<i8", 1),
    "token_rows": ("<i8", 1),  # row of the codes of image 0 in the token shard, or NO_CODES
    "flags": ("u1", 1),
    "lengths": ("<i4", 2),  # tokens with and without its condition; 0, 0: dropped
}


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What renders samples into ids; every field affects their lengths."""

    tokenizer: ChatTokenizer
    vocabulary: VisionVocabulary
    sizes: InputSizes


@dataclass(frozen=True, kw_only=True)
class IndexedPart:
    """The samples of one part of the mixture; arrays of equal length, memory-mapped."""

    shard_names: tuple[str, ...]
    digest: str  # of the sample ids in order
    ids: npt.NDArray[np.uint8]  # [N, 32]
    shards: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    token_rows: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]  # [N, 2]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class TrainingIndex:
    parts: tuple[IndexedPart, ...]
    tokenizer: TokenizerIdentity | None  # of the codes, if there are any
    dropped: dict[str, int]  # reason -> samples
    digest: str  # changes exactly when ids, lengths or settings do


def build_training_index(
    sources: Sequence[SourceFolders],
    config: LoaderConfig,
    rendering: Rendering,
    out: Path,
    guards: LoadingGuards = DEFAULT_GUARDS,
) -> TrainingIndex:
    """Write the index into the empty folder `out` and open it.

    Raises: LoadingError if a part is empty, needs tokens that are not given, or too many samples are dropped;
    DatasetError, TokensError, SampleError if data are damaged or come from different tokenizers.
    """
    _check_sources(sources, config)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = require_one_tokenizer(_token_shards(sources, config))
    if tokenizer is not None:
        _check_codebooks(tokenizer, rendering)
    parts: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    with (out / DROPPED_FILE).open("w", encoding="utf-8") as rejects:
        for number, part in enumerate(config.parts):
            writer = _PartWriter(sources[part.dataset], config, rendering, rejects, guards)
            parts.append(writer.write(out, number, part))
            dropped += writer.dropped
    _check_dropped(dropped, sum(part["num_samples"] for part in parts), guards, out)
    meta = {
        "format": INDEX_FORMAT,
        "settings": index_settings(config, rendering),
        "tokenizer": asdict(tokenizer) if tokenizer else None,
        "dropped": dict(dropped),
        "parts": parts,
    }
    (out / META_FILE).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return open_training_index(out, config, rendering)


def open_training_index(folder: Path, config: LoaderConfig, rendering: Rendering) -> TrainingIndex:
    """The index in `folder`. Raises: LoadingError if it is missing, damaged, or was built for other settings."""
    path = folder / META_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        parts = tuple(_open_part(folder, number, part) for number, part in enumerate(meta["parts"]))
        settings, found_format = meta["settings"], meta["format"]
        tokenizer = TokenizerIdentity(**meta["tokenizer"]) if meta["tokenizer"] else None
        dropped = dict(meta["dropped"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadingError(
            f"{path}: not an index of training data ({type(error).__name__}: {error}); build it again"
        ) from error
    expected = index_settings(config, rendering)
    if found_format != INDEX_FORMAT or settings != expected:
        changed = sorted(key for key in expected if settings.get(key) != expected[key])
        raise LoadingError(f"{path}: built for other settings ({', '.join(changed) or 'format'}); build it again")
    identity = [settings, *((part["digest"], part["lengths_digest"]) for part in meta["parts"])]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return TrainingIndex(parts=parts, tokenizer=tokenizer, dropped=dropped, digest=digest)


def index_settings(config: LoaderConfig, rendering: Rendering) -> dict[str, Any]:
    """Everything that affects the samples of the index and their lengths, as JSON.

    The order of a training depends on it, so each field is named: one that is added to a class later, and has its
    default, leaves the order of a begun training as it is.
    """
    vocabulary, sizes = rendering.vocabulary, rendering.sizes
    settings: dict[str, Any] = {
        "parts": [_fields(part, "tasks", "weight", "dataset", "split") for part in config.parts],
        "row_tokens": config.row_tokens,
        "drops_conditions": config.condition_dropout > 0,
        "vocabulary": _fields(vocabulary, "first_id", "semantic_codes", "pixel_codes", "resolutions"),
        "sizes": _fields(sizes, "pixel_factor", "min_pixels", "max_pixels", "fit_understanding_to_anchor"),
        "text_tokenizer": rendering.tokenizer.digest,
    }
    return dict(json.loads(json.dumps(settings)))


def _fields(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


class _PartWriter:
    """Writes the columns of one part, and the dropped samples with their reasons."""

    def __init__(
        self,
        source: SourceFolders,
        config: LoaderConfig,
        rendering: Rendering,
        rejects: IO[str],
        guards: LoadingGuards,
    ) -> None:
        self._source, self._config, self._rendering, self._rejects = source, config, rendering, rejects
        self._fails_if_too_long = guards.too_long == "error"
        self._dataset = CuratedDataset(source.dataset)
        self.dropped: Counter[str] = Counter()

    def write(self, out: Path, number: int, part: MixturePart) -> dict[str, Any]:
        """Write the files of the part; returns its entry in the index."""
        files = {name: (out / f"part-{number}.{name}").open("wb") for name in COLUMNS}
        ids_digest, lengths_digest, num_samples = hashlib.sha256(), hashlib.sha256(), 0
        try:
            for shard_number, shard in enumerate(self._dataset.shards):
                columns = self._shard_columns(number, part, shard_number, shard, first_index=num_samples)
                for name, values in columns.items():
                    files[name].write(np.ascontiguousarray(values, dtype=COLUMNS[name][0]).tobytes())
                ids_digest.update(columns["ids"].tobytes())
                lengths_digest.update(np.ascontiguousarray(columns["lengths"], dtype="<i4").tobytes())
                num_samples += len(columns["ids"])
        finally:
            for file in files.values():
                file.close()
        if not num_samples:
            raise LoadingError(
                f"parts[{number}]: {self._source.dataset} has no kept sample of split {part.split!r} with tasks "
                f"{', '.join(part.tasks)}; look at `illume audit`, or leave the part out"
            )
        return {
            "num_samples": num_samples,
            "shard_names": list(self._dataset.shards),
            "digest": ids_digest.hexdigest(),
            "lengths_digest": lengths_digest.hexdigest(),
        }

    def _shard_columns(
        self, number: int, part: MixturePart, shard_number: int, shard: str, *, first_index: int
    ) -> dict[str, npt.NDArray[Any]]:
        rows = self._dataset.rows(shard, split=part.split, tasks=part.tasks)
        lengths = np.zeros((len(rows), 2), dtype=np.int32)
        token_rows = self._token_rows(shard, rows)
        for index, (sample, found) in enumerate(self._lengths(shard, rows)):
            try:
                lengths[index] = self._accepted(sample, found, has_codes=int(token_rows[index]) != NO_CODES)
            except _DroppedError as error:
                self._drop(number, first_index + index, rows.ids[index].tobytes().hex(), error)
        return {
            "ids": rows.ids,
            "shards": np.full(len(rows), shard_number),
            "offsets": rows.offsets,
            "spans": rows.spans,
            "token_rows": token_rows,
            "flags": np.array([DROPPABLE if can_drop_condition(task) else 0 for task in rows.tasks]),
            "lengths": lengths,
        }

    def _lengths(self, shard: str, rows: ShardRows) -> Iterator[tuple[Sample, tuple[int | SampleError, ...]]]:
        """Each sample with its length as it is and, if its condition can be dropped, without it."""
        stream = self._dataset.samples(shard, rows)
        drops = self._config.condition_dropout > 0
        while samples := list(islice(stream, BATCH)):
            whole, droppable = self._batch_lengths(samples, False), [s for s in samples if can_drop_condition(s.task)]
            dropped = iter(self._batch_lengths(droppable, True) if drops else ())
            for sample, length in zip(samples, whole, strict=True):
                yield sample, (length, next(dropped) if drops and can_drop_condition(sample.task) else length)

    def _batch_lengths(self, samples: list[Sample], drop_condition: bool) -> list[int | SampleError]:
        rendering = self._rendering
        return rendered_lengths(
            samples,
            tokenizer=rendering.tokenizer,
            vocabulary=rendering.vocabulary,
            sizes=rendering.sizes,
            drop_condition=drop_condition,
        )

    def _accepted(self, sample: Sample, found: tuple[int | SampleError, ...], *, has_codes: bool) -> list[int]:
        lengths: list[int] = []
        for length in found:
            if isinstance(length, SampleError):
                raise _DroppedError("cannot_be_rendered", str(length))
            lengths.append(length)
        if not has_codes and target_slots(sample):
            raise _DroppedError("no_codes", f"sample {sample.sample_id}: its images were not tokenized")
        if max(lengths) > self._config.row_tokens:
            detail = f"sample {sample.sample_id}: {max(lengths)} tokens in rows of {self._config.row_tokens}"
            if self._fails_if_too_long:
                raise LoadingError(f"{detail}; lengthen row_tokens, or set too_long: drop")
            raise _DroppedError("too_long", detail)
        return lengths

    def _token_rows(self, shard: str, rows: ShardRows) -> npt.NDArray[np.int64]:
        found = np.full(len(rows), NO_CODES, dtype=np.int64)
        if self._source.tokens is None or not set(rows.tasks) & set(TASKS_WITH_TARGETS):
            return found
        first_rows: dict[str, int] = {}
        expected = ("", 0)
        for row, key in enumerate(TokenShard(self._source.token_shard(shard)).row_keys()):
            if key[1] == 0:
                first_rows[key[0]] = row
            elif key != expected:
                raise LoadingError(
                    f"{self._source.token_shard(shard)}: row {row} holds image {key[1]} of sample {key[0]}, "
                    "expected the images of a sample one after the other from 0; tokenize this shard again"
                )
            expected = (key[0], key[1] + 1)
        for index, sample_id in enumerate(rows.ids):
            found[index] = first_rows.get(sample_id.tobytes().hex(), NO_CODES)
        return found

    def _drop(self, part: int, index: int, sample_id: str, error: "_DroppedError") -> None:
        reason, detail = error.args
        self.dropped[reason] += 1
        line = {"part": part, "index": index, "sample_id": sample_id, "reason": reason, "detail": detail}
        self._rejects.write(json.dumps(line, ensure_ascii=False) + "\n")


class _DroppedError(Exception):
    """A sample is not trained, but keeps its position in the order. Arguments: reason, detail."""


def _check_sources(sources: Sequence[SourceFolders], config: LoaderConfig) -> None:
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


def _check_dropped(dropped: Counter[str], num_samples: int, guards: LoadingGuards, out: Path) -> None:
    share = dropped.total() / num_samples
    if share > guards.max_dropped_share or dropped.total() == num_samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        first = (out / DROPPED_FILE).read_text(encoding="utf-8").splitlines()[0]
        raise LoadingError(
            f"{dropped.total()} of {num_samples} samples cannot be trained ({reasons}), more than max_dropped_share "
            f"{guards.max_dropped_share}; the first: {json.loads(first)['detail']}"
        )


def _open_part(folder: Path, number: int, meta: dict[str, Any]) -> IndexedPart:
    num_samples = int(meta["num_samples"])
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, (dtype, width) in COLUMNS.items():
        shape = (num_samples, width) if width > 1 else (num_samples,)
        path = folder / f"part-{number}.{name}"
        expected = num_samples * width * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {expected}")
        columns[name] = np.memmap(path, dtype=dtype, mode="r", shape=shape)
    return IndexedPart(shard_names=tuple(meta["shard_names"]), digest=meta["digest"], **columns)
