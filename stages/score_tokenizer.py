"""Measures a tokenizer on images it was not trained on: PSNR, SSIM, codebook usage, and rFID if weights are given."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import PrecheckError
from orchestrator.identity import semantic_config
from orchestrator.shards import Quarantined, Shard, ShardInput, ShardOutcome
from orchestrator.stage import Location, NodeInputs, Slot, StageContext, StageKind
from stages.node_data import DATASETS, open_inputs

Task = Literal["understanding", "generation", "editing"]

SAMPLES_PER_SHARD = 2048


@dataclass(frozen=True, kw_only=True)
class ScoreTokenizerConfig:
    split: str = "val"
    tasks: tuple[Task, ...] = ("understanding", "generation", "editing")  # of the samples whose images are scored
    samples: int = 0  # of each dataset, spread evenly; 0: all
    batch: int = 16  # images of one anchor that are encoded together
    inception_sha256: str = ""  # digest of the Inception weights for rFID; empty: no rFID
    inception_weights: Location = Location("")  # file of these weights: safetensors or PyTorch, of 2015-12-05


@dataclass(frozen=True, kw_only=True)
class ScoreWorker:
    """Holds the tokenizer and, for rFID, Inception."""

    config: ScoreTokenizerConfig
    tokenizer: Path
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import torch

        from data_pipelines.datasets.reader import CuratedDataset
        from data_pipelines.evaluation.reconstruction import score_part
        from models.dualvitok.weights import load
        from models.metrics.inception import load_inception

        open_inputs(self.inputs)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load(self.tokenizer, device)
        weights = Path(self.config.inception_weights)
        inception = load_inception(weights, device) if self.config.inception_sha256 else None

        def run(shard: ShardInput) -> ShardOutcome:
            dataset = CuratedDataset(Path(str(shard.work["dataset"])))
            done = score_part(
                dataset,
                str(shard.work["shard"]),
                model=model,
                inception=inception,
                sample_ids=[str(item) for item in shard.items],
                anchors=dataset.anchors,
                batch_size=self.config.batch,
                out=shard.output,
            )
            left_out = tuple(Quarantined(item=item, reason=reason) for item, reason in done.left_out)
            return ShardOutcome(rows=done.num_images, quarantined=left_out)

        return run


def needs(config: ScoreTokenizerConfig) -> Mapping[str, str]:
    return {"inception_weights": config.inception_weights} if config.inception_sha256 else {}


def run(config: ScoreTokenizerConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.evaluation.reconstruction import summarize

    if config.inception_sha256:
        _check_digest(config)
    open_inputs(context.node_inputs)
    tokenizer = context.input("tokenizer")
    weights = {entry.path: entry.sha256 for entry in tokenizer.manifest.files}
    records = context.map_shards(
        ScoreWorker(config=config, tokenizer=tokenizer.path, inputs=context.node_inputs),
        _shards(config, context),
        label="score",
        identity={
            "tokenizer": weights["model.safetensors"],
            "config": semantic_config(config, without=("split", "tasks", "samples")),
        },
        unit="samples",
    )
    for record in records:
        context.adopt(record, {entry.path: f"parts/{record.shard}/{entry.path}" for entry in record.files})
    metrics = summarize([record.path for record in records])
    (context.output / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    return metrics


def _check_digest(config: ScoreTokenizerConfig) -> None:
    import hashlib

    with Path(config.inception_weights).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != config.inception_sha256:
        raise PrecheckError(
            f"score_tokenizer: the Inception weights have SHA-256 {found}, but config.inception_sha256 says "
            f"{config.inception_sha256}"
        )


def _shards(config: ScoreTokenizerConfig, context: StageContext) -> list[Shard]:
    """The chosen samples, grouped by dataset shard. Raises: PrecheckError if there are none."""
    from data_pipelines.datasets.reader import CuratedDataset

    shards = []
    for number, artifact in enumerate(context.inputs("datasets")):
        dataset = CuratedDataset(artifact.path)
        ids = {
            name: [row.tobytes().hex() for row in dataset.rows(name, split=config.split).ids] for name in dataset.shards
        }
        total = sum(map(len, ids.values()))
        count = min(config.samples or total, total)
        chosen = {index * total // count for index in range(count)} if count else set()
        position = 0
        for name, found in ids.items():
            items = [item for index, item in enumerate(found, start=position) if index in chosen]
            position += len(found)
            for first in range(0, len(items), SAMPLES_PER_SHARD):
                shards.append(
                    Shard(
                        name=f"{number}-{name}-{first // SAMPLES_PER_SHARD:05d}",
                        items=tuple(items[first : first + SAMPLES_PER_SHARD]),
                        identity={"dataset": artifact.fingerprint, "shard": name},
                        work={"dataset": str(artifact.path), "shard": name},
                    )
                )
    if not shards:
        raise PrecheckError(
            f"score_tokenizer: no kept sample of {', '.join(config.tasks)} in split {config.split!r}; "
            "see `illume audit`"
        )
    return shards


METRICS = {
    "psnr": "peak signal-to-noise ratio, dB, mean over the images",
    "ssim": "structural similarity, -1 to 1, mean over the images",
    "rfid": "Frechet distance of Inception features of images and reconstructions",
    "rfid_images": "images in this distance",
    "images": "images that were scored",
    "psnr/<anchor>": "the same for the images of one anchor, height x width",
    "ssim/<anchor>": "the same for the images of one anchor, height x width",
    "semantic_codes_used": "share of the semantic codebook in use",
    "pixel_codes_used": "share of the pixel codebook in use",
    "semantic_perplexity": "perplexity of the semantic codes",
    "pixel_perplexity": "perplexity of the pixel codes",
}


def headline(metrics: Mapping[str, float]) -> str:
    rfid = f", rFID {metrics['rfid']:.2f}" if "rfid" in metrics else ""
    return f"PSNR {metrics['psnr']:.1f} dB, SSIM {metrics['ssim']:.2f}{rfid} on {metrics['images']:,.0f} images"


SCORE_TOKENIZER = StageKind(
    name="score_tokenizer",
    version=2,
    config=ScoreTokenizerConfig,
    run=run,
    inputs={"datasets": DATASETS, "tokenizer": Slot(kind="tokenizer@1")},
    output="report@1",
    needs=needs,
    metrics=METRICS,
    headline=headline,
)
