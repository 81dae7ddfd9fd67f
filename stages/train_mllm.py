"""Train the unified language model: one kind, used once for each of the progressive stages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_pipelines.training_data.config import LoaderConfig
from models.mllm.config import LossWeights, TextModelConfig
from orchestrator.stage import Location, Slot, StageContext, StageKind
from stages.training.config import LoopConfig, in_smaller_parts

if TYPE_CHECKING:
    import torch

    from stages.programs.mllm import MllmProgram


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rate of each group that the phase trains; the others must stay 0."""

    adapter: float
    image_tokens: float = 0.0  # stage 1
    language: float = 0.0  # stages 2, 2.5 and 3
    vision: float = 0.0  # stage 3


@dataclass(frozen=True, kw_only=True)
class TrainMllmConfig:
    phase: Literal["stage1", "stage2", "stage2.5", "stage3"]  # what trains: models/mllm/phases.py
    text: TextModelConfig
    learning_rates: LearningRates
    data: LoaderConfig
    loop: LoopConfig
    padded_rows: int = 0  # rows of the token tables; 0: as many as there are tokens
    loss_weights: LossWeights = LossWeights()
    checkpoint_activations: bool = False
    base_model_id: str = ""  # name and revision of the Qwen2 or Qwen2.5 model to start from; "": from scratch
    base_model: Location = Location("")  # its folder

    def __post_init__(self) -> None:
        if self.data.rows_per_step % self.loop.micros_per_step:
            raise ValueError(
                f"data.rows_per_step: {self.data.rows_per_step} rows cannot be cut into loop.micros_per_step "
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
    tokens: tuple[Path, ...]  # of each dataset, or one of all
    tokenizer: Path
    vocabulary: Path
    start: Path | None  # folder of the model to go on from
    index: Path  # of the training data, made before the workers start

    def build(self, device: "torch.device") -> "MllmProgram":
        from stages.programs.mllm import MllmProgram

        return MllmProgram(self, device)


def needs(config: TrainMllmConfig) -> Mapping[str, str]:
    return {"base_model": config.base_model} if config.base_model_id else {}


def precheck(config: TrainMllmConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.mllm import check_config

    check_config(config, inputs)


def run(config: TrainMllmConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.mllm import export_mllm, index_data
    from stages.training.driver import train

    start = context.inputs("start")
    loop, _ = in_smaller_parts(config.loop, config.rows, context.memory_halvings)
    task = MllmTask(
        config=replace(config, loop=loop),
        datasets=tuple(artifact.path for artifact in context.inputs("datasets")),
        tokens=tuple(artifact.path for artifact in context.inputs("tokens")),
        tokenizer=context.input("tokenizer").path,
        vocabulary=context.input("vocabulary").path,
        start=start[0].path if start else None,
        index=context.scratch / "index",
    )
    left_out = index_data(task)
    result = train(task, loop, context)
    export_mllm(task, result.checkpoint.path, context.output)
    return {**result.metrics, **left_out}


TRAIN_MLLM = StageKind(
    name="train_mllm",
    version=1,
    config=TrainMllmConfig,
    run=run,
    inputs={
        "datasets": Slot(kind="dataset@1", many=True),
        "tokens": Slot(kind="tokens@1", many=True),
        "tokenizer": Slot(kind="tokenizer@1"),
        "vocabulary": Slot(kind="vocabulary@1"),
        "start": Slot(kind="mllm@1", required=False),
    },
    output="mllm@1",
    needs=needs,
    precheck=precheck,
)
