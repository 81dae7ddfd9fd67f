"""The index of the training data: location, lengths and codes of every sample of a mixture, in memory-mapped files.

Made once, by `index_build.py`; then opened by every worker. Samples that cannot be trained keep their position in the
order with length 0, and are listed with their reason in `dropped.jsonl`.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.text_tokenizer import ChatTokenizer
from data_pipelines.tokens.token_shards import TokenizerIdentity
from data_pipelines.training_data.columns import open_columns
from data_pipelines.training_data.config import LoaderConfig, LoadingError, LoadingGuards
from models.mllm.vocabulary import VisionVocabulary

INDEX_FORMAT = 2
META_FILE, DROPPED_FILE = "index.json", "dropped.jsonl"
NO_CODES = -1
DROPPABLE, HELD_OUT = 1, 2  # flags: the condition of the sample can be dropped; the sample is never trained on
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
    held_out: int  # samples that are never trained on, so that a model can be judged by them
    digest: str  # changes exactly when ids, lengths or settings do

    @property
    def num_samples(self) -> int:
        return sum(len(part) for part in self.parts)


def open_training_index(folder: Path, config: LoaderConfig, rendering: Rendering) -> TrainingIndex:
    """The index in `folder`. Raises: LoadingError if it is missing, damaged, or was built for other settings."""
    path = folder / META_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        parts = tuple(_open_part(folder, number, part) for number, part in enumerate(meta["parts"]))
        found, found_format = meta["settings"], meta["format"]
        tokenizer = TokenizerIdentity(**meta["tokenizer"]) if meta["tokenizer"] else None
        dropped, held_out = dict(meta["dropped"]), int(meta.get("held_out", 0))
        without_weights = _without_weights(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadingError(
            f"{path}: not an index of training data ({type(error).__name__}: {error}); build it again"
        ) from error
    settings = index_settings(config, rendering)
    expected = _without_weights(settings)
    if found_format != INDEX_FORMAT or without_weights != expected:
        changed = sorted(key for key in {**expected, **found} if without_weights.get(key) != expected.get(key))
        raise LoadingError(f"{path}: built for other settings ({', '.join(changed) or 'format'}); build it again")
    identity = [settings, *((part["digest"], part["lengths_digest"]) for part in meta["parts"])]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return TrainingIndex(parts=parts, tokenizer=tokenizer, dropped=dropped, held_out=held_out, digest=digest)


def index_settings(config: LoaderConfig, rendering: Rendering) -> dict[str, Any]:
    """Everything that affects the samples of the index and their lengths, as JSON.

    The order of a training depends on it, so each field is named: one that is added to a class later, and has its
    default, leaves the order of a begun training as it is.
    """
    vocabulary, sizes = rendering.vocabulary, rendering.sizes
    settings: dict[str, Any] = {
        "parts": [_fields(part, "tasks", "weight", "dataset", "split") for part in config.parts],
        "row_tokens": config.row_tokens,
        "drops_conditions": config.drops_conditions,
        "vocabulary": _fields(vocabulary, "first_id", "semantic_codes", "pixel_codes", "resolutions"),
        "sizes": _fields(sizes, "pixel_factor", "min_pixels", "max_pixels", "fit_understanding_to_anchor"),
        "text_tokenizer": rendering.tokenizer.digest,
    }
    if config.held_out_share:
        settings["held_out_share"] = config.held_out_share
    return dict(json.loads(json.dumps(settings)))


def _without_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the columns: trainings that mix the same samples in other shares read one index."""
    parts = [{name: value for name, value in part.items() if name != "weight"} for part in settings["parts"]]
    return {**settings, "parts": parts}


def _fields(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def check_dropped(dropped: Counter[str], num_samples: int, guards: LoadingGuards, folder: Path) -> None:
    """Raises: LoadingError if more samples are dropped than the guards allow."""
    share = dropped.total() / num_samples
    is_refused = guards.too_long == "error" and dropped["too_long"] > 0
    if not (is_refused or share > guards.max_dropped_share or dropped.total() == num_samples):
        return
    with (folder / DROPPED_FILE).open(encoding="utf-8") as file:
        lines = (json.loads(line) for line in file)
        first = next((line for line in lines if line["reason"] == "too_long" or not is_refused), {"detail": "unknown"})
    if is_refused:
        raise LoadingError(f"{first['detail']}; lengthen row_tokens, or set too_long: drop")
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    raise LoadingError(
        f"{dropped.total()} of {num_samples} samples cannot be trained ({reasons}), more than max_dropped_share "
        f"{guards.max_dropped_share}; the first: {first['detail']}"
    )


def _open_part(folder: Path, number: int, meta: dict[str, Any]) -> IndexedPart:
    columns = open_columns(folder, f"part-{number}.", COLUMNS, int(meta["num_samples"]))
    return IndexedPart(shard_names=tuple(meta["shard_names"]), digest=meta["digest"], **columns)
