"""Generates the images of a public benchmark, in the layout of its own scoring tool. Scores nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from models.mllm.config import SamplingConfig
from orchestrator.identity import semantic_config
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import Execution, Location, Slot, StageContext, StageKind


@dataclass(frozen=True, kw_only=True)
class DrawBenchmarkConfig:
    format: Literal["geneval", "mjhq", "emu_edit", "prompts"]
    data: Location  # the benchmark's own file or folder of prompts
    size: tuple[int, int]  # (height, width) of the codes, in pixels; edits keep their source's size
    sampling: SamplingConfig
    images_per_prompt: int = 1  # GenEval wants 4
    enlarge: bool = True  # with the diffusion decoder, if there is one
    diffusion_steps: int = 50
    diffusion_guidance: float = 2.0
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"prompts_per_shard": "execution.prompts_per_shard"}

    def __post_init__(self) -> None:
        if self.images_per_prompt < 1:
            raise ValueError(f"images_per_prompt: {self.images_per_prompt}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class DrawExecution(Execution):
    prompts_per_shard: int = 32  # each prompt is drawn by itself

    def __post_init__(self) -> None:
        if self.prompts_per_shard < 1:
            raise ValueError(f"prompts_per_shard: {self.prompts_per_shard}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class DrawWorker:
    """Holds all models, once in each worker process."""

    config: DrawBenchmarkConfig
    tokenizer: Path
    mllm: Path
    decoder: Path | None

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import torch

        from data_pipelines.evaluation.benchmarks import DrawSettings, draw_items, read_items
        from data_pipelines.inference.illume_plus import IllumePlus

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = IllumePlus.load(self.tokenizer, self.mllm, self.decoder, device=device)
        config = self.config
        items = {item.key: item for item in read_items(config.format, Path(config.data))}
        drawing = DrawSettings(
            size=config.size,
            sampling=config.sampling,
            images_per_prompt=config.images_per_prompt,
            enlarge=config.enlarge and self.decoder is not None,
            diffusion_steps=config.diffusion_steps,
            diffusion_guidance=config.diffusion_guidance,
        )

        def run(shard: ShardInput) -> ShardOutcome:
            chosen = [items[str(key)] for key in shard.items]
            return ShardOutcome(rows=draw_items(model, config.format, chosen, drawing, shard.output))

        return run


def sources(config: DrawBenchmarkConfig) -> Mapping[str, Path]:
    return {"data": Path(config.data)}


def run(config: DrawBenchmarkConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.evaluation.benchmarks import read_items

    decoders = context.inputs("decoder")
    models = [context.input("tokenizer"), context.input("mllm"), *decoders]
    worker = DrawWorker(
        config=config,
        tokenizer=models[0].path,
        mllm=models[1].path,
        decoder=decoders[0].path if decoders else None,
    )
    items = read_items(config.format, Path(config.data))
    size = context.execution(DrawExecution).prompts_per_shard
    shards = [
        Shard(
            name=f"prompts-{first // size:05d}",
            items=tuple(item.key for item in items[first : first + size]),
            identity={"items": [item.digest for item in items[first : first + size]]},
            work={},
        )
        for first in range(0, len(items), size)
    ]
    records = context.map_shards(
        worker,
        shards,
        label="draw",
        identity={"models": [model.fingerprint for model in models], "how": semantic_config(config)},
        unit="prompts",
    )
    for record in records:
        context.adopt(record)
    return {"prompts": float(len(items)), "images": float(sum(record.outcome.rows for record in records))}


DRAW_BENCHMARK = StageKind(
    name="draw_benchmark",
    version=2,
    config=DrawBenchmarkConfig,
    execution=DrawExecution,
    run=run,
    inputs={
        "tokenizer": Slot(kind="tokenizer@1"),
        "mllm": Slot(kind="mllm@1"),
        "decoder": Slot(kind="decoder@1", required=False),
    },
    output="drawings@1",
    metrics={"images": "images that were drawn", "prompts": "prompts of the benchmark"},
    sources=sources,
)
