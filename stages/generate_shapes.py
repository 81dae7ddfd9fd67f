"""Draw the built-in world of shapes: the embedded default data, whose truth is known exactly."""

from collections.abc import Mapping

from data_pipelines.shapes_config import ShapesConfig
from orchestrator.stage import StageContext, StageKind


def run(config: ShapesConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.shapes_world import generate_world

    return generate_world(context.output, config)


GENERATE_SHAPES = StageKind(name="generate_shapes", version=1, config=ShapesConfig, run=run, output="raw@1")
