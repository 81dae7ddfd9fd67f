"""Pre-trains a small semantic encoder on images and their texts, for use where no published encoder is available."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.cost import ConfigTree, CostFacts
from orchestrator.learning import Exposures, Learned, Samples, Training
from orchestrator.stage import Preparation, StageContext, StageKind
from stages.index_images import INDEX_IMAGES, INDEX_SLOT
from stages.node_data import DATASETS, open_inputs
from stages.programs.index_use import check_index_config
from stages.programs.vision_config import TrainVisionConfig, VisionTask, vision_images
from stages.training.config import TrainingExecution
from stages.training.metrics import LOOP_METRICS, amount_text, pass_metrics
from stages.training.precheck import precheck_execution

if TYPE_CHECKING:
    from data_pipelines.training_data.image_batches import ImageBatches


def precheck(config: TrainVisionConfig, inputs: Mapping[str, Any]) -> None:
    check_index_config("train_vision", inputs, vision_images(config))


def run(config: TrainVisionConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.image_data import images_index
    from stages.programs.validation import validation_images
    from stages.programs.vision import VisionProgram, export_tower
    from stages.training.driver import train

    open_inputs(context.node_inputs)
    datasets = tuple(artifact.path for artifact in context.inputs("datasets"))
    index = images_index(context, vision_images(config), datasets)
    validation = validation_images(context, vision_images(config), datasets, index)
    task = VisionTask(config=config, datasets=datasets, index=index, validation=validation)
    result = train(VisionProgram, task, config.loop, context)
    export_tower(config.model, result.checkpoint.path, context.output)
    return result.metrics


METRICS = {
    **pass_metrics(
        "contrast",
        {
            "image_accuracy": "share of images whose own text is nearest in the batch",
            "text_accuracy": "share of texts whose own image is nearest in the batch",
        },
    ),
    **LOOP_METRICS,
}


def headline(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['contrast/loss']:.4g}, {100 * metrics['contrast/image_accuracy']:.0f} % of texts found"


def amount(config: TrainVisionConfig) -> str:
    return amount_text(config.loop.steps, config.batch * config.loop.micro_batches_per_step, "images")


def exposures(training: Training[TrainVisionConfig], samples: Samples) -> Exposures:
    from stages.programs.image_data import make_index
    from stages.programs.vision import vision_batches
    from stages.training.exposures import image_exposures

    config = training.config

    def batches() -> "ImageBatches":
        datasets = training.inputs("datasets")
        index = training.index(lambda folder: make_index(folder, datasets, vision_images(config)))
        return vision_batches(VisionTask(config=config, datasets=datasets, index=index))

    return image_exposures(training, config.loop, samples, batches)


def cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    from stages.programs.image_costs import vision_cost

    return vision_cost(tree, execution)


TRAIN_VISION = StageKind(
    name="train_vision",
    version=2,
    config=TrainVisionConfig,
    execution=TrainingExecution,
    run=run,
    inputs={"datasets": DATASETS, "index": INDEX_SLOT},
    preparations={"index": Preparation(kind=INDEX_IMAGES, config=vision_images, inputs=("datasets",))},
    precheck=precheck,
    precheck_execution=precheck_execution,
    output="vision@1",
    metrics=METRICS,
    headline=headline,
    cost=cost,
    amount=amount,
    units=lambda config: config.loop.steps,
    learned=Learned(exposures=exposures),
)
