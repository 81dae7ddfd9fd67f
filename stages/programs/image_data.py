"""The training images of a program: their index, and their micro-batches in training order."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.image_batches import ImageBatches
from data_pipelines.training_data.image_index import ImageSelection, make_image_index, open_image_index
from data_pipelines.training_data.sources import SourceFolders
from orchestrator.stage import StageContext
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import INDEX, given_index
from stages.programs.token_pairing import pair_tokens


def image_sources(datasets: Sequence[Path], tokens: Sequence[Path] | None) -> list[SourceFolders]:
    """`tokens`: for images with codes only. Raises: PrecheckError if they do not fit the datasets."""
    if tokens is None:
        return [SourceFolders(dataset=folder) for folder in datasets]
    return pair_tokens("train_decoder", datasets, tokens)


def selection_of(config: IndexImagesConfig) -> ImageSelection:
    return ImageSelection(split=config.split, tasks=config.tasks or None, tokenized=config.tokenized)


def make_index(
    out: Path, datasets: Sequence[Path], config: IndexImagesConfig, tokens: Sequence[Path] | None = None
) -> None:
    """Make the index of the images of some datasets in this process."""
    make_image_index(out, image_sources(datasets, tokens), selection_of(config))


def images_index(
    context: StageContext, config: IndexImagesConfig, datasets: Sequence[Path], tokens: Sequence[Path] | None = None
) -> Path:
    """The folder of the index of a training's images: the one that it was given, or a new one, for all workers.

    Raises: PrecheckError, LoadingError if the given one is that of other images.
    """
    given = given_index(context, ("datasets", "tokens"))
    folder = given or context.scratch / INDEX
    if given is None:
        make_index(folder, datasets, config, tokens)
    open_image_index(folder, [CuratedDataset(dataset) for dataset in datasets], selection_of(config))
    return folder


def indexed_batches(
    folders: Sequence[Path],
    index: Path,
    config: IndexImagesConfig,
    *,
    batch: int,
    seed: int,
    scale: int = 1,
    parts: int = 1,
    mirrored_share: float = 0.0,
) -> ImageBatches:
    """See `ImageBatches`. Raises: LoadingError if the index is not that of these datasets."""
    datasets = [CuratedDataset(folder) for folder in folders]
    return ImageBatches(
        datasets,
        open_image_index(index, datasets, selection_of(config)),
        batch=batch,
        seed=seed,
        scale=scale,
        parts=parts,
        mirrored_share=mirrored_share,
    )
