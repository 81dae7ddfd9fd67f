"""Pre-train a small semantic encoder on pictures and their texts, for when no published encoder is at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.dualvitok.config import ImageTextConfig, VisionConfig
from orchestrator.stage import Slot, StageContext, StageKind
from stages.training.config import LoopConfig

if TYPE_CHECKING:
    import torch

    from stages.programs.vision import VisionProgram

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

    def build(self, device: "torch.device") -> "VisionProgram":
        from stages.programs.vision import VisionProgram

        return VisionProgram(self.config, self.datasets, device)


def run(config: TrainVisionConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.vision import export_tower
    from stages.training.driver import train

    datasets = tuple(artifact.path for artifact in context.inputs("datasets"))
    result = train(VisionTask(config=config, datasets=datasets), config.loop, context)
    export_tower(config.model, result.checkpoint.path, context.output)
    return result.metrics


TRAIN_VISION = StageKind(
    name="train_vision",
    version=1,
    config=TrainVisionConfig,
    run=run,
    inputs={"datasets": Slot(kind="dataset@1", many=True)},
    output="vision@1",
)
