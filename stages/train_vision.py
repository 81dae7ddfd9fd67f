"""Pre-trains a small semantic encoder on images and their texts, for use where no published encoder is available."""

from collections.abc import Mapping

from orchestrator.stage import Slot, StageContext, StageKind
from stages.programs.vision_config import TrainVisionConfig, VisionTask


def run(config: TrainVisionConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.vision import VisionProgram, export_tower
    from stages.training.driver import train

    datasets = tuple(artifact.path for artifact in context.inputs("datasets"))
    result = train(VisionProgram, VisionTask(config=config, datasets=datasets), config.loop, context)
    export_tower(config.model, result.checkpoint.path, context.output)
    return result.metrics


TRAIN_VISION = StageKind(
    name="train_vision",
    version=2,
    config=TrainVisionConfig,
    run=run,
    inputs={"datasets": Slot(kind="dataset@1", many=True)},
    output="vision@1",
)
