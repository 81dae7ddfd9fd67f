"""Config of the unified language model's training, and the task that is sent to its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from data_pipelines.training_data.config import LoaderConfig, LoadingGuards
from models.mllm.config import LossWeights, TextModelConfig
from orchestrator.stage import Location
from stages.programs.index_use import PackedIndex
from stages.training.config import LoopConfig, RecomputingExecution

NO_GUARDS = LoadingGuards(max_dropped_share=1.0)  # of a training that began, whose order is computed again


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rate of each group that the phase trains; the others must stay 0."""

    adapter: float
    image_tokens: float = 0.0  # stage 1
    language: float = 0.0  # stages 2, 2.5 and 3
    vision: float = 0.0  # stage 3


@dataclass(frozen=True, kw_only=True)
class TrainMllmConfig:
    """With the input `start`, text, padded_rows, image_rows, scaled_residuals and base model are that model's own, and
    must not be given.
    """

    phase: Literal["stage1", "stage2", "stage2.5", "stage3"]  # which parameters train: models/mllm/phases.py
    learning_rates: LearningRates
    data: LoaderConfig
    loop: LoopConfig
    text: TextModelConfig | None = None  # needed without `start`
    padded_rows: int = 0  # rows of the token tables; 0: as many as there are tokens
    # Initial vectors of image codes: random, as published, or near those of the tokenizer's codebooks, so that few
    # images suffice: models/mllm/code_rows.py.
    image_rows: Literal["random", "codebook"] = "random"
    # From scratch: what each layer adds to its input begins smaller, by sqrt(2 * layers), as in GPT-2 and Megatron-LM.
    scaled_residuals: bool = False
    loss_weights: LossWeights = LossWeights()
    base_model_id: str = ""  # name and revision of the Qwen2 or Qwen2.5 model to start from; "": from scratch
    base_model: Location = Location("")  # folder of the base model
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"checkpoint_activations": "execution.checkpoint_activations"}

    def __post_init__(self) -> None:
        if self.scaled_residuals and self.base_model_id:
            raise ValueError("scaled_residuals: true with base_model_id, whose layers are trained; remove one of them")
        if self.data.rows_per_step % self.loop.micro_batches_per_step:  # 0 with samples_per_step
            raise ValueError(
                f"data.rows_per_step: {self.data.rows_per_step} rows cannot be split into loop.micro_batches_per_step "
                f"({self.loop.micro_batches_per_step}) equal micro-batches"
            )


@dataclass(frozen=True, kw_only=True)
class MllmExecution(RecomputingExecution, LoadingGuards):
    checkpoint_vision: bool = False  # the same for the blocks of the vision tower and the pixel encoder, as they train
    # Compile each layer of the language model by torch.compile with this backend; inductor is the one for GPUs.
    compile_layers: Literal["", "inductor", "aot_eager", "eager"] = ""
    # Workers, best of one node, that hold a part of each row and exchange heads around attention; 1: rows are whole.
    sequence_workers: int = 1

    def __post_init__(self) -> None:
        RecomputingExecution.__post_init__(self)
        LoadingGuards.__post_init__(self)
        if self.sequence_workers < 1:
            raise ValueError(f"sequence_workers: {self.sequence_workers} is less than 1")
        if self.sequence_workers > 1 and self.watch.validate_beside:
            raise ValueError(
                f"sequence_workers: {self.sequence_workers} with watch.validate_beside, which has one; "
                "set validate_beside: false"
            )
        if self.compile_layers and self.checkpoint_selective:
            raise ValueError(
                f"compile_layers: {self.compile_layers} with checkpoint_selective: of a compiled layer nothing is "
                "kept selectively; set checkpoint_selective: false, or compile_layers to ''"
            )
        if self.compile_layers and self.zero_stage == 3:
            raise ValueError(
                f"compile_layers: {self.compile_layers} with zero_stage: 3, which gathers parameters inside of layers; "
                "set strategy: fsdp2, or zero_stage: 2"
            )


@dataclass(frozen=True, kw_only=True)
class MllmValidation:
    """The validation split of a training's datasets."""

    index: PackedIndex
    config: LoaderConfig  # of the index
    parts: tuple[int, ...]  # of the training, those of the index


@dataclass(frozen=True, kw_only=True)
class MllmTask:
    config: TrainMllmConfig
    datasets: tuple[Path, ...]
    tokens: tuple[Path, ...]  # one for each dataset, or one for all
    tokenizer: Path
    vocabulary: Path
    start: Path | None  # folder of the model to continue from
    index: Path  # folder of the training data's index, which is built before the workers start
    validation: MllmValidation | None = None  # to validate on; None: what the index holds out, if that is something
    guards: LoadingGuards = NO_GUARDS
    execution: MllmExecution = MllmExecution()
