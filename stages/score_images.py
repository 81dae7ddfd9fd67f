"""Scores the images of ingested records with models, once: a changed bound reads the scores, not the images."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.images.limits import DecodeLimits
from orchestrator.artifact import JSON
from orchestrator.errors import PrecheckError
from orchestrator.identity import semantic_config
from orchestrator.shards import ShardInput, ShardOutcome
from orchestrator.stage import NodeInputs, Slot, StageContext, StageKind
from stages.curation.ingested_shards import all_rows_shard, ingested_shards
from stages.curation.scoring_config import ScoreImagesConfig, ScoreImagesExecution, ScorerConfig
from stages.node_data import is_shard, open_inputs

if TYPE_CHECKING:
    from data_pipelines.scoring.scorers import Scorer

COUNTS = ("images", "unscored", "sum")  # of a shard


@dataclass(frozen=True, kw_only=True)
class ScoreWorker:
    """Holds one model; items are the rows of an ingested shard."""

    config: ScoreImagesConfig
    scorer: ScorerConfig
    on_gpu: bool
    execution: ScoreImagesExecution
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.scoring.score_shard import ScoringSettings, score_shard
        from data_pipelines.scoring.scorers import Similarity

        open_inputs(self.inputs)
        config, name = self.config, self.scorer.name
        scorer = self._load()
        width = scorer.width if self.scorer.embed and isinstance(scorer, Similarity) else 0
        settings = ScoringSettings(
            limits=DecodeLimits(max_pixels=config.max_pixels, max_file_bytes=config.max_file_bytes),
            batch=config.batch,
            decode_threads=self.execution.decode_threads,
        )

        def run(shard: ShardInput) -> ShardOutcome:
            counts = score_shard(
                Path(str(shard.work["records"])),
                str(shard.work["shard"]),
                shard.output / "scores.parquet",
                score=name,
                scorer=scorer,
                settings=settings,
                rows={int(item) for item in shard.items if isinstance(item, int)},
                embedding_width=width,
            )
            return ShardOutcome(rows=len(shard.items), metrics=counts)

        return run

    def _load(self) -> "Scorer":
        import torch

        from data_pipelines.scoring.scorers import Aesthetic, Classifier, Similarity

        folder, device = Path(self.scorer.model), "cuda" if self.on_gpu else "cpu"
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        if self.scorer.kind == "similarity":
            return Similarity(folder, device, dtype)
        if self.scorer.kind == "aesthetic":
            return Aesthetic(folder, Path(self.scorer.head), device, dtype)
        return Classifier(folder, self.scorer.label, device, dtype)


def sources(config: ScoreImagesConfig) -> Mapping[str, Path]:
    """Every file that the models are loaded from, by score and file name."""
    from data_pipelines.scoring.model_files import model_files

    found: dict[str, Path] = {}
    for scorer in config.scorers:
        files = model_files(Path(scorer.model))
        found |= {f"{scorer.name}/model/{name}": path for name, path in files.items()}
        found |= {f"{scorer.name}/head": Path(scorer.head)} if scorer.head else {}
    return found


def precheck(config: ScoreImagesConfig, inputs: Mapping[str, Any]) -> None:
    from data_pipelines.scoring.model_files import class_labels

    for scorer in config.scorers:
        if scorer.kind == "classifier":
            labels = class_labels(Path(scorer.model))
            if labels and scorer.label not in labels:
                raise PrecheckError(
                    f"score_images ({scorer.name}): the model {scorer.model} has no label {scorer.label!r}; expected "
                    f"one of {', '.join(labels)}"
                )


def run(config: ScoreImagesConfig, context: StageContext) -> Mapping[str, float]:
    open_inputs(context.node_inputs)
    # One map for each scorer, so that adding a scorer does not run the others again.
    shards = [all_rows_shard(name, found) for name, found in ingested_shards(context.inputs("records")).items()]
    digests = {name: _sha256(path) for name, path in sources(config).items()}
    metrics: dict[str, float] = {}
    for scorer in config.scorers:
        records = context.map_shards(
            ScoreWorker(
                config=config,
                scorer=scorer,
                on_gpu=context.resources.gpus > 0,
                execution=context.execution(ScoreImagesExecution),
                inputs=context.node_inputs,
            ),
            shards,
            label="score",
            identity=_identity(config, scorer, digests),
            unit="records",
        )
        for record in records:
            context.adopt(record, {"scores.parquet": f"scores/{scorer.name}/{record.shard}.parquet"})
        totals = {name: sum(record.outcome.metrics.get(name, 0.0) for record in records) for name in COUNTS}
        scored = totals["images"] - totals["unscored"]
        metrics |= {f"{name}/{scorer.name}": totals[name] for name in ("images", "unscored")}
        metrics[f"mean/{scorer.name}"] = totals["sum"] / scored if scored else 0.0
        metrics[f"quarantined/{scorer.name}"] = float(sum(len(record.outcome.quarantined) for record in records))
    return metrics


def _identity(config: ScoreImagesConfig, scorer: ScorerConfig, digests: Mapping[str, str]) -> dict[str, JSON]:
    files: dict[str, JSON] = {name: digest for name, digest in digests.items() if name.startswith(f"{scorer.name}/")}
    shared = semantic_config(config, without=("scorers",))
    return {"scorer": semantic_config(scorer), "files": files, "config": shared}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


METRICS = {
    "mean/<score>": "mean of a score over the images that have it",
    "images/<score>": "images that were looked at for a score",
    "unscored/<score>": "of these, images without a score, because they cannot be decoded",
    "quarantined/<score>": "records that broke their worker",
}


def headline(metrics: Mapping[str, float]) -> str:
    means = {name.removeprefix("mean/"): value for name, value in metrics.items() if name.startswith("mean/")}
    return ", ".join(f"{name} {value:.4g} (mean)" for name, value in list(means.items())[:3])


SCORE_IMAGES = StageKind(
    name="score_images",
    version=2,
    config=ScoreImagesConfig,
    execution=ScoreImagesExecution,
    run=run,
    inputs={"records": Slot(kind="records@1", many=True, streamed=is_shard)},
    output="scores@1",
    renamed_metrics={"pictures/": "images/"},
    sources=sources,
    precheck=precheck,
    metrics=METRICS,
    headline=headline,
)
