"""Config of the tokenizer's training, and the task that is sent to its workers."""

from dataclasses import dataclass
from pathlib import Path

from models.dualvitok.config import DiscriminatorConfig, DualViTokConfig, LossConfig
from orchestrator.stage import Location
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import PackedIndex
from stages.training.config import NO_RECOMPUTING, LoopConfig, RecomputingExecution

TOKENIZER_IMAGES = IndexImagesConfig()  # that it is trained on: all


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerConfig:
    model: DualViTokConfig
    loss: LossConfig
    batch: int  # images in one micro-batch, all of one anchor
    learning_rate: float
    loop: LoopConfig
    mirrored_share: float = 0.0  # of the images, chosen anew in each epoch, that are mirrored; published 0.5
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    plain_norms_at_start: bool = False  # a new decoder's norms scale by about 1, not by random numbers around 0
    vision_id: str = ""  # name and revision of a published vision tower to use, where no stage trains one
    vision_weights: Location = Location("")  # folder of that tower: `config.json` and `model.safetensors`
    lpips_sha256: tuple[str, ...] = ()  # digests of the LPIPS weights, which are part of the loss
    lpips_weights: tuple[Location, ...] = ()  # files of these weights, in the same order; for `perceptual: lpips`

    def __post_init__(self) -> None:
        if not 0 <= self.mirrored_share <= 1:
            raise ValueError(f"mirrored_share: {self.mirrored_share} is not in [0, 1]")
        if self.loss.perceptual == "lpips" and not self.lpips_sha256:
            raise ValueError(
                "lpips_sha256: empty, but loss.perceptual is 'lpips'; give the weights' digests here and their files "
                "in lpips_weights, or choose perceptual: gradients or none"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerTask:
    config: TrainTokenizerConfig
    datasets: tuple[Path, ...]
    vision: Path | None  # folder of the pre-trained tower
    start: Path | None  # folder of the tokenizer to continue from
    index: Path  # folder of the index of the datasets' images, which is made before the workers start
    validation: PackedIndex | None = None  # index of the images to validate on
    parts: int = 1  # into which each micro-batch is split
    execution: RecomputingExecution = NO_RECOMPUTING
