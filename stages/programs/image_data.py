"""The training images of a program: their index, and their micro-batches in training order."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.image_batches import ImageBatches
from data_pipelines.training_data.image_index import ImageSelection, make_image_index, open_image_index
from data_pipelines.training_data.sources import SourceFolders
from stages.programs.token_pairing import pair_tokens


def make_index(
    out: Path, datasets: Sequence[Path], selection: ImageSelection, tokens: Sequence[Path] | None = None
) -> None:
    """Make the index of the images of some datasets, once for all workers. `tokens`: for those with codes only."""
    sources = [SourceFolders(dataset=folder) for folder in datasets]
    make_image_index(out, sources if tokens is None else pair_tokens("train_decoder", datasets, tokens), selection)


def indexed_batches(
    folders: Sequence[Path],
    index: Path,
    selection: ImageSelection,
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
        open_image_index(index, datasets, selection),
        batch=batch,
        seed=seed,
        scale=scale,
        parts=parts,
        mirrored_share=mirrored_share,
    )
