"""Config of the diffusion decoder's training, and the task that is sent to its workers."""

from dataclasses import dataclass
from pathlib import Path

from models.diffusion.config import DecoderConfig
from orchestrator.stage import Location
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import PackedIndex
from stages.training.config import NO_RECOMPUTING, LoopConfig, RecomputingExecution

DECODER_IMAGES = IndexImagesConfig(tasks=("generation", "editing"), tokenized=True)  # that it is trained on


@dataclass(frozen=True, kw_only=True)
class TrainDecoderConfig:
    model: DecoderConfig
    batch: int  # images in one micro-batch, all of one anchor
    learning_rate: float
    loop: LoopConfig
    last_level_share: float = 0.0  # of the images that are trained at the last noise level, where sampling begins
    even_cells_at_start: bool = False  # a new network's pixels of a cell begin equal; in pixel space only
    base_model_id: str = ""  # name and revision of the diffusers model to start from; latent space needs one
    base_model: Location = Location("")  # folder of the base model, with `unet` and `vae`

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch} is less than 1")
        if not 0 <= self.last_level_share <= 1:
            raise ValueError(f"last_level_share: {self.last_level_share} is not in [0, 1]")
        if self.even_cells_at_start and (self.model.space != "pixel" or self.base_model_id):
            raise ValueError("even_cells_at_start: true, but only a new network in pixel space has cells to begin with")
        if self.model.space == "latent" and not self.base_model_id:
            raise ValueError("base_model_id: empty, but latent space needs the autoencoder of a base model")


@dataclass(frozen=True, kw_only=True)
class DecoderTask:
    config: TrainDecoderConfig
    datasets: tuple[Path, ...]
    tokens: tuple[Path, ...]  # one for each dataset, or one for all
    tokenizer: Path
    start: Path | None  # folder of the decoder to continue from
    index: Path  # folder of the index of the datasets' images, which is made before the workers start
    validation: PackedIndex | None = None  # index of the images to validate on
    parts: int = 1  # into which each micro-batch is split
    execution: RecomputingExecution = NO_RECOMPUTING
