"""The vocabulary folder: `tokenizer.json` with text and image tokens, `vocabulary.json` with the layout of the ids."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.samples import IMAGE, RESOLUTION_TAG
from data_pipelines.tokens.text_tokenizer import (
    SYSTEM_TEXT,
    ChatTokenizer,
    adopt_text_tokenizer,
    extend,
    train_text_tokenizer,
)
from models import json_config
from models.dualvitok.weights import load_config
from models.mllm.vocabulary import VisionVocabulary

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocabulary.json"
FORMAT = 1
_PLACEHOLDERS = re.compile(f"{re.escape(IMAGE)}|{re.escape(RESOLUTION_TAG)}")


@dataclass(frozen=True, kw_only=True)
class _VocabularyFile:
    format: int
    first_id: int
    semantic_codes: int
    pixel_codes: int
    resolutions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The text tokens and image tokens of a model."""

    text: ChatTokenizer
    vision: VisionVocabulary


def build_vocabulary(
    datasets: Sequence[Path],
    tokenizer: Path,
    output: Path,
    *,
    resolutions: tuple[int, ...],
    text_vocabulary: int,
    first_id: int,
    text_tokenizer: Path | None,
) -> Mapping[str, float]:
    """Write a vocabulary: train a text tokenizer of `text_vocabulary` ids on the datasets, or adopt one.

    The codebook sizes are those of the image tokenizer in the folder `tokenizer`.
    """
    if text_tokenizer is None:
        text = train_text_tokenizer(_texts(datasets), text_vocabulary)
    else:
        text = adopt_text_tokenizer(text_tokenizer)
    config = load_config(tokenizer)
    vision = VisionVocabulary(
        first_id=first_id or text.get_vocab_size(),
        semantic_codes=config.semantic.codebook_size,
        pixel_codes=config.pixel.codebook_size,
        resolutions=resolutions,
    )
    extend(text, vision).save(str(output / TOKENIZER_FILE))
    (output / VOCABULARY_FILE).write_text(json.dumps({"format": FORMAT, **asdict(vision)}, indent=2) + "\n")
    return {"text_ids": float(vision.first_id), "vision_ids": float(vision.size)}


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary in `folder`. Raises: ConfigError, TextTokenizerError for files that are not a vocabulary."""
    path = folder / VOCABULARY_FILE
    found = json_config.from_json(_VocabularyFile, path.read_text(), where=str(path))
    if found.format != FORMAT:
        raise json_config.ConfigError(f"{path}: format {found.format}, expected {FORMAT}; make the vocabulary again")
    vision = VisionVocabulary(
        first_id=found.first_id,
        semantic_codes=found.semantic_codes,
        pixel_codes=found.pixel_codes,
        resolutions=found.resolutions,
    )
    return Vocabulary(text=ChatTokenizer.load(folder / TOKENIZER_FILE), vision=vision)


def _texts(datasets: Sequence[Path]) -> Iterator[str]:
    """The texts as they are encoded: split at images and resolution tags."""
    yield SYSTEM_TEXT
    for folder in datasets:
        dataset = CuratedDataset(folder)
        for shard in dataset.shards:
            for sample in dataset.samples(shard, dataset.rows(shard, split="train")):
                for turn in sample.turns:
                    message = f"{'user' if turn.role == 'human' else 'assistant'}\n{turn.text}"
                    yield from filter(None, _PLACEHOLDERS.split(message))
