"""Train DualViTok: pictures to semantic and pixel codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.dualvitok.config import DiscriminatorConfig, DualViTokConfig, LossConfig
from orchestrator.stage import Location, Slot, StageContext, StageKind
from stages.training.config import LoopConfig, in_smaller_parts

if TYPE_CHECKING:
    import torch

    from stages.programs.tokenizer import TokenizerProgram


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerConfig:
    model: DualViTokConfig
    loss: LossConfig
    batch: int  # pictures of one micro-batch, all of one anchor
    learning_rate: float
    loop: LoopConfig
    mirrored_share: float = 0.0  # of the pictures that are shown mirrored, others in each epoch; published 0.5
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    vision_id: str = ""  # name and revision of a published tower to use, where no stage trains one
    vision_weights: Location = Location("")  # its folder: `config.json` and `model.safetensors` of a vision tower
    lpips_sha256: tuple[str, ...] = ()  # digests of the LPIPS weights, which are part of the loss
    lpips_weights: tuple[Location, ...] = ()  # their files, in the same order; needed for perceptual: lpips

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
    start: Path | None  # folder of the tokenizer to go on from
    parts: int = 1  # into which each micro-batch is cut

    def build(self, device: "torch.device") -> "TokenizerProgram":
        from stages.programs.tokenizer import TokenizerProgram

        return TokenizerProgram(self, device)


def needs(config: TrainTokenizerConfig) -> Mapping[str, str]:
    places = {"vision_weights": config.vision_weights} if config.vision_id else {}
    if config.loss.perceptual == "lpips":
        places["lpips_weights"] = config.lpips_weights[0] if config.lpips_weights else Location("")
    return places


def precheck(config: TrainTokenizerConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.tokenizer import check_config

    check_config(config)


def run(config: TrainTokenizerConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.tokenizer import export_tokenizer
    from stages.training.driver import train

    vision = context.inputs("vision")
    published = Path(config.vision_weights) if config.vision_id else None
    start = context.inputs("start")
    loop, parts = in_smaller_parts(config.loop, config.batch, context.memory_halvings)
    task = TokenizerTask(
        config=replace(config, loop=loop),
        datasets=tuple(artifact.path for artifact in context.inputs("datasets")),
        vision=vision[0].path if vision else published,
        start=start[0].path if start else None,
        parts=parts,
    )
    result = train(task, loop, context)
    export_tokenizer(task, result.checkpoint.path, context.output)
    return result.metrics


TRAIN_TOKENIZER = StageKind(
    name="train_tokenizer",
    version=1,
    config=TrainTokenizerConfig,
    run=run,
    inputs={
        "datasets": Slot(kind="dataset@1", many=True),
        "vision": Slot(kind="vision@1", required=False),
        "start": Slot(kind="tokenizer@1", required=False),
    },
    output="tokenizer@1",
    needs=needs,
    precheck=precheck,
)
