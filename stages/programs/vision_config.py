"""Config of the contrastive pre-training, and the task that its workers get."""

from dataclasses import dataclass
from pathlib import Path

from models.dualvitok.config import ImageTextConfig, VisionConfig
from stages.training.config import LoopConfig

NUM_BYTE_IDS = 257  # texts are read as UTF-8 bytes shifted by one; 0 is padding


@dataclass(frozen=True, kw_only=True)
class TrainVisionConfig:
    vision: VisionConfig
    batch: int  # pictures of one micro-batch; the contrast is within it
    learning_rate: float
    loop: LoopConfig
    text_width: int = 128
    text_depth: int = 2
    embedding_width: int = 128
    max_bytes: int = 96  # of a text
    tasks: tuple[str, ...] = ("generation", "understanding")  # samples whose text says what their picture shows

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


@dataclass(frozen=True, kw_only=True)
class VisionTask:
    config: TrainVisionConfig
    datasets: tuple[Path, ...]
