"""Config of the contrastive pre-training of the vision tower, and the task that is sent to its workers."""

from dataclasses import dataclass
from pathlib import Path

from models.dualvitok.config import ImageTextConfig, VisionConfig
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import PackedIndex
from stages.training.config import LoopConfig

NUM_BYTE_IDS = 257  # text ids are UTF-8 bytes plus one; 0 is padding


@dataclass(frozen=True, kw_only=True)
class TrainVisionConfig:
    vision: VisionConfig
    batch: int  # images in one micro-batch, which are contrasted with one another
    learning_rate: float
    loop: LoopConfig
    text_width: int = 128
    text_depth: int = 2
    embedding_width: int = 128
    max_bytes: int = 96  # of a text; the rest is cut off
    tasks: tuple[str, ...] = ("generation", "understanding")  # of samples whose text describes their image

    @property
    def model(self) -> ImageTextConfig:
        return ImageTextConfig(
            vision=self.vision,
            vocabulary_size=NUM_BYTE_IDS,
            padding_id=0,
            max_tokens=self.max_bytes,
            text_width=self.text_width,
            text_depth=self.text_depth,
            embedding_width=self.embedding_width,
        )


def vision_images(config: TrainVisionConfig) -> IndexImagesConfig:
    """The images that the tower is trained on."""
    return IndexImagesConfig(tasks=config.tasks)


@dataclass(frozen=True, kw_only=True)
class VisionTask:
    config: TrainVisionConfig
    datasets: tuple[Path, ...]
    index: Path  # folder of the index of their images, which is made before the workers start
    validation: PackedIndex | None = None  # index of the images to validate on
