"""Trains DualViTok: images to semantic and pixel codes and back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.cost import ConfigTree, CostFacts
from orchestrator.learning import Exposures, Learned, Samples, Training
from orchestrator.stage import Location, Preparation, Slot, StageContext, StageKind
from stages.index_images import INDEX_IMAGES, INDEX_SLOT
from stages.node_data import DATASETS, open_inputs
from stages.programs.index_use import check_index_config
from stages.programs.tokenizer_config import TOKENIZER_IMAGES, TokenizerTask, TrainTokenizerConfig
from stages.training.config import RecomputingExecution, TrainingExecution, split_micro_batches
from stages.training.metrics import LOOP_METRICS, amount_text, pass_metrics
from stages.training.precheck import precheck_execution


def needs(config: TrainTokenizerConfig) -> Mapping[str, str]:
    needed = {"vision_weights": config.vision_weights} if config.vision_id else {}
    if config.loss.perceptual == "lpips":
        needed["lpips_weights"] = config.lpips_weights[0] if config.lpips_weights else Location("")
    return needed


def precheck(config: TrainTokenizerConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.tokenizer import check_config

    check_config(config)
    check_index_config("train_tokenizer", inputs, TOKENIZER_IMAGES)


def run(config: TrainTokenizerConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.image_data import images_index
    from stages.programs.tokenizer import TokenizerProgram, export_tokenizer
    from stages.programs.validation import validation_images
    from stages.training.driver import train

    open_inputs(context.node_inputs)
    vision = context.inputs("vision")
    published = Path(config.vision_weights) if config.vision_id else None
    start = context.inputs("start")
    loop, parts = split_micro_batches(config.loop, config.batch, context.memory_halvings)
    datasets = tuple(artifact.path for artifact in context.inputs("datasets"))
    index = images_index(context, TOKENIZER_IMAGES, datasets)
    task = TokenizerTask(
        config=replace(config, loop=loop),
        datasets=datasets,
        vision=vision[0].path if vision else published,
        start=start[0].path if start else None,
        index=index,
        validation=validation_images(context, TOKENIZER_IMAGES, datasets, index),
        parts=parts,
        execution=context.execution(RecomputingExecution),
    )
    result = train(TokenizerProgram, task, loop, context)
    export_tokenizer(task, result.checkpoint.path, context.output)
    return result.metrics


GENERATOR_METRICS = {
    "psnr_db": "peak signal-to-noise ratio of the reconstructions, dB",
    "pixel": "difference of pixels",
    "perceptual": "difference of features of a perceptual network, or of gradients",
    "semantic_cosine": "1 - cosine between semantic features and their reconstruction",
    "semantic_codebook": "codebook and commitment loss of the semantic codes",
    "pixel_codebook": "codebook and commitment loss of the pixel codes",
    "adversarial": "loss by the discriminator, from its first step on",
    "total": "weighted sum of these terms",
}
DISCRIMINATOR_METRICS = {
    "discriminator": "hinge loss",
    "real_logits": "mean logit of real images",
    "found_logits": "mean logit of reconstructions",
}
METRICS = {
    **pass_metrics("generator", GENERATOR_METRICS),
    **pass_metrics("discriminator", DISCRIMINATOR_METRICS),
    **LOOP_METRICS,
}


def headline(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['generator/loss']:.4g}, PSNR {metrics['generator/psnr_db']:.1f} dB"


def amount(config: TrainTokenizerConfig) -> str:
    return amount_text(config.loop.steps, config.batch * config.loop.micro_batches_per_step, "images")


def exposures(training: Training[TrainTokenizerConfig], samples: Samples) -> Exposures:
    from data_pipelines.training_data.image_batches import ImageBatches
    from stages.programs.image_data import make_index
    from stages.programs.tokenizer import tokenizer_batches
    from stages.training.exposures import image_exposures

    def batches() -> ImageBatches:
        datasets = training.inputs("datasets")
        index = training.index(lambda folder: make_index(folder, datasets, TOKENIZER_IMAGES))
        task = TokenizerTask(config=training.config, datasets=datasets, vision=None, start=None, index=index)
        return tokenizer_batches(task)

    return image_exposures(training, training.config.loop, samples, batches)


def cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    from stages.programs.image_costs import tokenizer_cost

    return tokenizer_cost(tree, execution)


TRAIN_TOKENIZER = StageKind(
    name="train_tokenizer",
    version=2,
    config=TrainTokenizerConfig,
    execution=RecomputingExecution,
    run=run,
    inputs={
        "datasets": DATASETS,
        "vision": Slot(kind="vision@1", required=False),
        "start": Slot(kind="tokenizer@1", required=False),
        "index": INDEX_SLOT,
    },
    preparations={
        "index": Preparation(kind=INDEX_IMAGES, config=lambda _config: TOKENIZER_IMAGES, inputs=("datasets",))
    },
    output="tokenizer@1",
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
