"""Trains the diffusion decoder: codes to images of twice their size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.cost import ConfigTree, CostFacts
from orchestrator.learning import Exposures, Learned, Samples, Training
from orchestrator.stage import Preparation, Slot, StageContext, StageKind
from stages.index_images import INDEX_IMAGES, INDEX_SLOT
from stages.node_data import DATASETS, TOKENS, open_inputs
from stages.programs.decoder_config import DECODER_IMAGES, DecoderTask, TrainDecoderConfig
from stages.programs.index_use import check_index_config
from stages.training.config import RecomputingExecution, TrainingExecution, split_micro_batches
from stages.training.metrics import LOOP_METRICS, amount_text, pass_metrics
from stages.training.precheck import precheck_execution


def needs(config: TrainDecoderConfig) -> Mapping[str, str]:
    return {"base_model": config.base_model} if config.base_model_id else {}


def precheck(config: TrainDecoderConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.decoder import check_config

    check_config(config, inputs)
    check_index_config("train_decoder", inputs, DECODER_IMAGES)


def run(config: TrainDecoderConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.decoder import DecoderProgram, export_decoder
    from stages.programs.image_data import images_index
    from stages.programs.validation import validation_images
    from stages.training.driver import train

    open_inputs(context.node_inputs)
    start = context.inputs("start")
    loop, parts = split_micro_batches(config.loop, config.batch, context.memory_halvings)
    datasets, tokens = (tuple(artifact.path for artifact in context.inputs(slot)) for slot in ("datasets", "tokens"))
    index = images_index(context, DECODER_IMAGES, datasets, tokens)
    task = DecoderTask(
        config=replace(config, loop=loop),
        datasets=datasets,
        tokens=tokens,
        tokenizer=context.input("tokenizer").path,
        start=start[0].path if start else None,
        index=index,
        validation=validation_images(context, DECODER_IMAGES, datasets, index, tokens),
        parts=parts,
        execution=context.execution(RecomputingExecution),
    )
    result = train(DecoderProgram, task, loop, context)
    export_decoder(task, result.checkpoint.path, context.output)
    return result.metrics


METRICS = {**pass_metrics("denoising", {}), **LOOP_METRICS}


def headline(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['denoising/loss']:.4g}"


def amount(config: TrainDecoderConfig) -> str:
    return amount_text(config.loop.steps, config.batch * config.loop.micro_batches_per_step, "images")


def exposures(training: Training[TrainDecoderConfig], samples: Samples) -> Exposures:
    from data_pipelines.training_data.image_batches import ImageBatches
    from stages.programs.decoder import TokenizedImages
    from stages.programs.image_data import make_index
    from stages.training.exposures import image_exposures

    def batches() -> ImageBatches:
        datasets, tokens = training.inputs("datasets"), training.inputs("tokens")
        task = DecoderTask(
            config=training.config,
            datasets=datasets,
            tokens=tokens,
            tokenizer=training.inputs("tokenizer")[0],
            start=None,
            index=training.index(lambda folder: make_index(folder, datasets, DECODER_IMAGES, tokens)),
        )
        return TokenizedImages(task).batches

    return image_exposures(training, training.config.loop, samples, batches)


def cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    from stages.programs.image_costs import decoder_cost

    return decoder_cost(tree, execution)


TRAIN_DECODER = StageKind(
    name="train_decoder",
    version=2,
    config=TrainDecoderConfig,
    execution=RecomputingExecution,
    run=run,
    inputs={
        "datasets": DATASETS,
        "tokens": TOKENS,
        "tokenizer": Slot(kind="tokenizer@1"),
        "start": Slot(kind="decoder@1", required=False),
        "index": INDEX_SLOT,
    },
    preparations={
        "index": Preparation(kind=INDEX_IMAGES, config=lambda _config: DECODER_IMAGES, inputs=("datasets", "tokens"))
    },
    output="decoder@1",
    learned=Learned(exposures=exposures),
    needs=needs,
    precheck=precheck,
    precheck_execution=precheck_execution,
    metrics=METRICS,
    headline=headline,
    cost=cost,
    amount=amount,
    units=lambda config: config.loop.steps,
)
