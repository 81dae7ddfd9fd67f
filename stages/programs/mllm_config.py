"""Config of the unified language model's training, and the task that is sent to its workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipelines.training_data.config import LoaderConfig
from models.mllm.config import LossWeights, TextModelConfig
from orchestrator.stage import Location
from stages.training.config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rate of each group that the phase trains; the others must stay 0."""

    adapter: float
    image_tokens: float = 0.0  # stage 1
    language: float = 0.0  # stages 2, 2.5 and 3
    vision: float = 0.0  # stage 3


@dataclass(frozen=True, kw_only=True)
class TrainMllmConfig:
    phase: Literal["stage1", "stage2", "stage2.5", "stage3"]  # which parameters train: models/mllm/phases.py
    text: TextModelConfig
    learning_rates: LearningRates
    data: LoaderConfig
    loop: LoopConfig
    padded_rows: int = 0  # rows of the token tables; 0: as many as there are tokens
    loss_weights: LossWeights = LossWeights()
    checkpoint_activations: bool = False
    base_model_id: str = ""  # name and revision of the Qwen2 or Qwen2.5 model to start from; "": from scratch
    base_model: Location = Location("")  # folder of the base model

    def __post_init__(self) -> None:
        if self.data.rows_per_step % self.loop.micros_per_step:
            raise ValueError(
                f"data.rows_per_step: {self.data.rows_per_step} rows cannot be split into loop.micros_per_step "
                f"({self.loop.micros_per_step}) equal micro-batches"
            )

    @property
    def rows(self) -> int:
        """Packed rows of one micro-batch."""
        return self.data.rows_per_step // self.loop.micros_per_step


@dataclass(frozen=True, kw_only=True)
class MllmTask:
    config: TrainMllmConfig
    datasets: tuple[Path, ...]
    tokens: tuple[Path, ...]  # one for each dataset, or one for all
    tokenizer: Path
    vocabulary: Path
    start: Path | None  # folder of the model to continue from
    index: Path  # folder of the training data's index, which is built before the workers start
