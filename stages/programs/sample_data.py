"""The training samples of the unified language model: how they are rendered, and the index of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.vocabulary import load_vocabulary
from data_pipelines.training_data.config import LoaderConfig, LoadingGuards, MixturePart
from data_pipelines.training_data.index import Rendering, TrainingIndex, check_dropped, open_training_index
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.sources import SourceFolders
from models.dualvitok.weights import load_config as load_tokenizer_config
from stages.programs.index_config import IndexSamplesConfig


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """Where the samples of a training are, and what renders them."""

    sources: Sequence[SourceFolders]
    config: LoaderConfig
    rendering: Rendering


def rendering_of(config: LoaderConfig, *, vocabulary: Path, tokenizer: Path) -> Rendering:
    """From the folders of the vocabulary and of the image tokenizer, whose weights are not read."""
    loaded = load_vocabulary(vocabulary)
    sizes = InputSizes(
        pixel_factor=load_tokenizer_config(tokenizer).pixel.factor,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        fit_understanding_to_anchor=config.fit_understanding_to_anchor,
    )
    return Rendering(tokenizer=loaded.text, vocabulary=loaded.vision, sizes=sizes)


def loader_config(config: IndexSamplesConfig) -> LoaderConfig:
    """A loader that reads the samples of an index; its order and rows are not those of a training."""
    return LoaderConfig(
        parts=tuple(
            MixturePart(tasks=part.tasks, weight=1.0, dataset=part.dataset, split=part.split) for part in config.parts
        ),
        seed=0,
        row_tokens=config.row_tokens,
        rows_per_step=1,
        condition_dropout=1.0 if config.drops_conditions else 0.0,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        held_out_share=config.held_out_share,
        fit_understanding_to_anchor=config.fit_understanding_to_anchor,
    )


def make_index(data: SampleData, folder: Path, guards: LoadingGuards) -> TrainingIndex:
    """Make the index in this process."""
    return build_training_index(data.sources, data.config, data.rendering, folder, guards)


def open_index(data: SampleData, folder: Path, guards: LoadingGuards) -> TrainingIndex:
    """An index that was made before. Raises: LoadingError if it is another one, or dropped more than is allowed."""
    index = open_training_index(folder, data.config, data.rendering)
    check_dropped(Counter(index.dropped), index.num_samples, guards, folder)
    return index


def index_metrics(index: TrainingIndex) -> dict[str, float]:
    """`dropped/<reason>`: samples that are not trained on; `held_out`: those that never are, if any."""
    dropped = {f"dropped/{reason}": float(count) for reason, count in index.dropped.items()}
    return {**dropped, **({"held_out": float(index.held_out)} if index.held_out else {})}
