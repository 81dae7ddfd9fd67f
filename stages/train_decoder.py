"""Train the diffusion decoder: codes to pictures of twice their size."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.diffusion.config import DecoderConfig
from orchestrator.stage import Location, Slot, StageContext, StageKind
from stages.training.config import LoopConfig, in_smaller_parts

if TYPE_CHECKING:
    import torch

    from stages.programs.decoder import DecoderProgram


@dataclass(frozen=True, kw_only=True)
class TrainDecoderConfig:
    model: DecoderConfig
    batch: int  # pictures of one micro-batch, all of one anchor
    learning_rate: float
    loop: LoopConfig
    base_model_id: str = ""  # name and revision of the diffusers model to start from; latent space needs one
    base_model: Location = Location("")  # its folder, with `unet` and `vae`

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch} is less than 1")
        if self.model.space == "latent" and not self.base_model_id:
            raise ValueError("base_model_id: empty, but latent space needs the autoencoder of a base model")


@dataclass(frozen=True, kw_only=True)
class DecoderTask:
    config: TrainDecoderConfig
    datasets: tuple[Path, ...]
    tokens: tuple[Path, ...]  # of each dataset, or one of all
    tokenizer: Path
    start: Path | None  # folder of the decoder to go on from
    parts: int = 1  # into which each micro-batch is cut

    def build(self, device: "torch.device") -> "DecoderProgram":
        from stages.programs.decoder import DecoderProgram

        return DecoderProgram(self, device)


def needs(config: TrainDecoderConfig) -> Mapping[str, str]:
    return {"base_model": config.base_model} if config.base_model_id else {}


def precheck(config: TrainDecoderConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.decoder import check_config

    check_config(config, inputs)


def run(config: TrainDecoderConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.decoder import export_decoder
    from stages.training.driver import train

    start = context.inputs("start")
    loop, parts = in_smaller_parts(config.loop, config.batch, context.memory_halvings)
    task = DecoderTask(
        config=replace(config, loop=loop),
        datasets=tuple(artifact.path for artifact in context.inputs("datasets")),
        tokens=tuple(artifact.path for artifact in context.inputs("tokens")),
        tokenizer=context.input("tokenizer").path,
        start=start[0].path if start else None,
        parts=parts,
    )
    result = train(task, loop, context)
    export_decoder(task, result.checkpoint.path, context.output)
    return result.metrics


TRAIN_DECODER = StageKind(
    name="train_decoder",
    version=1,
    config=TrainDecoderConfig,
    run=run,
    inputs={
        "datasets": Slot(kind="dataset@1", many=True),
        "tokens": Slot(kind="tokens@1", many=True),
        "tokenizer": Slot(kind="tokenizer@1"),
        "start": Slot(kind="decoder@1", required=False),
    },
    output="decoder@1",
    needs=needs,
    precheck=precheck,
)
