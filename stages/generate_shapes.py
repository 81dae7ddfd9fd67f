"""Generates the built-in shapes dataset, the default data, whose ground truth is known exactly."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from data_pipelines.shapes.config import ShapesConfig
from orchestrator.identity import semantic_config, semantic_json
from orchestrator.shards import Shard, ShardInput, ShardOutcome, sum_metrics
from orchestrator.stage import StageContext, StageKind

# Fields that decide how many lines there are, not what is in them.
COUNTS = ("understanding", "generation", "editing", "text", "val_share", "lines_per_file")


@dataclass(frozen=True, kw_only=True)
class DrawWorker:
    config: ShapesConfig

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.shapes.world import WorldFile, generate_file

        def run(shard: ShardInput) -> ShardOutcome:
            file = WorldFile(**shard.work["file"])  # type: ignore[arg-type]  # JSON of this very class
            counts = generate_file(shard.output, self.config, file)
            return ShardOutcome(rows=file.count, metrics={name: float(count) for name, count in counts.items()})

        return run


def run(config: ShapesConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.shapes.world import plan_world

    shards = [
        Shard(name=file.name, items=(file.name,), identity={"file": semantic_json(file)}, work={"file": asdict(file)})
        for file in plan_world(config)
    ]
    # A line depends on its own number and on the settings of the scenes, not on how many lines there are.
    scenes = semantic_config(config, without=COUNTS)
    records = context.map_shards(
        DrawWorker(config=config), shards, label="draw", identity={"scenes": scenes}, unit="files"
    )
    for record in records:
        context.adopt(record)
    return sum_metrics(records)


METRICS = {
    "lines": "records that were drawn",
    "images": "images that they name",
    "understanding": "records of this task",
    "generation": "records of this task",
    "editing": "records of this task",
    "text": "records of this task",
    "verdict <verdict>": "records that curation should give this verdict",
    "rows": "records, as lines",
    "quarantined": "files whose drawing failed",
}


def headline(metrics: Mapping[str, float]) -> str:
    return f"{metrics['lines']:,.0f} records, {metrics['images']:,.0f} images"


GENERATE_SHAPES = StageKind(
    name="generate_shapes",
    version=2,
    config=ShapesConfig,
    run=run,
    output="raw@1",
    metrics=METRICS,
    headline=headline,
    renamed_metrics={"pictures": "images"},
)
