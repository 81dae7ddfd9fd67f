"""Encodes the images of curated datasets into semantic and pixel codes, once, before any training reads them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from orchestrator.artifact import Artifact
from orchestrator.errors import PrecheckError
from orchestrator.identity import semantic_config
from orchestrator.shards import Quarantined, Shard, ShardInput, ShardOutcome, sum_metrics
from orchestrator.stage import Execution, NodeInputs, Slot, StageContext, StageKind
from stages.node_data import DATASETS, open_inputs

Task = Literal["understanding", "generation", "editing"]
SHARDS_COUNTED = 16  # at most, evenly spaced, whose codes are counted to tell how much of the codebooks is in use


@dataclass(frozen=True, kw_only=True)
class TokenizeImagesConfig:
    tasks: tuple[Task, ...] = ("generation", "editing")  # of the samples whose answers contain images
    batch: int = 16  # images of one anchor that are encoded together
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # the encoders, with torch.compile: takes minutes per worker and anchor; for large datasets
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"decode_threads": "execution.decode_threads"}

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class TokenizeExecution(Execution):
    decode_threads: int = 2  # of each worker; images are decoded while others are encoded

    def __post_init__(self) -> None:
        if self.decode_threads < 1:
            raise ValueError(f"decode_threads: {self.decode_threads}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class TokenizeWorker:
    """Holds the tokenizer, once in each worker process."""

    config: TokenizeImagesConfig
    tokenizer: Path
    execution: TokenizeExecution
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import torch

        from data_pipelines.datasets.reader import CuratedDataset
        from data_pipelines.tokens.tokenize import tokenize_shard, tokenizer_identity
        from models.dualvitok.weights import WEIGHTS_FILE, load

        open_inputs(self.inputs)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        model = load(self.tokenizer, device, dtype=dtype)
        if self.config.compile:
            model.compile_encoders()
        identity = tokenizer_identity(model, self.tokenizer / WEIGHTS_FILE)

        def run(shard: ShardInput) -> ShardOutcome:
            dataset = CuratedDataset(Path(str(shard.work["dataset"])))
            done = tokenize_shard(
                dataset,
                str(shard.work["shard"]),
                model=model,
                tokenizer=identity,
                sample_ids=[str(item) for item in shard.items],
                anchors=dataset.anchors,
                out=shard.output / "codes.parquet",
                batch_size=self.config.batch,
                decode_threads=self.execution.decode_threads,
            )
            return ShardOutcome(
                rows=done.num_images,
                quarantined=tuple(Quarantined(item=item, reason=reason) for item, reason in done.quarantined),
                metrics={f"images_{anchor}": float(count) for anchor, count in done.images_per_anchor.items()},
            )

        return run


def run(config: TokenizeImagesConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.tokens.code_use import code_use

    open_inputs(context.node_inputs)
    tokenizer = context.input("tokenizer")
    weights = {entry.path: entry.sha256 for entry in tokenizer.manifest.files}
    records = context.map_shards(
        TokenizeWorker(
            config=config,
            tokenizer=tokenizer.path,
            execution=context.execution(TokenizeExecution),
            inputs=context.node_inputs,
        ),
        shards_to_tokenize(context.inputs("datasets"), config.tasks),
        label="tokenize",
        identity={
            "tokenizer": weights["model.safetensors"],
            "config": semantic_config(config, without=("tasks",)),
        },
        unit="samples",
    )
    for record in records:
        context.adopt(record, {"codes.parquet": f"tokens/{record.shard}.parquet"})
    counted = [record.file("codes.parquet") for record in records[:: -(-len(records) // SHARDS_COUNTED) or 1]]
    return {**sum_metrics(records), **code_use(counted)}


def shards_to_tokenize(datasets: Sequence[Artifact], tasks: Sequence[Task]) -> list[Shard]:
    """One shard for each dataset shard with samples of the tasks.

    Raises: PrecheckError if two datasets have a shard of the same name, as their codes would share one file.
    """
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.tokens.tokenize import samples_to_tokenize

    found: dict[str, Shard] = {}
    for artifact in datasets:
        dataset = CuratedDataset(artifact.path)
        digests = {entry.path: entry.sha256 for entry in artifact.manifest.files}
        for name in dataset.shards:
            items = samples_to_tokenize(dataset, name, tasks)
            if not items:
                continue
            if name in found:
                raise PrecheckError(
                    f"two datasets of this stage both have a shard {name!r}; tokenize each in a stage of its own, "
                    "or give their sources different file names"
                )
            found[name] = Shard(
                name=name,
                items=tuple(items),
                identity={"tar": digests[f"shards/{name}.tar"]},
                work={"dataset": str(artifact.path), "shard": name},
            )
    return list(found.values())


METRICS = {
    "rows": "images that were encoded",
    "images_<anchor>": "of these, images of one anchor, height x width",
    "quarantined": "samples with an image that cannot be encoded",
    "<codebook>_codes_used": "share of a codebook in use, semantic or pixel",
    "<codebook>_perplexity": "exponential of the entropy of its codes: how many equally frequent ones say as much",
    "<codebook>_codes_per_entry": "codes that these were counted from, over the size of the codebook",
}


def headline(metrics: Mapping[str, float]) -> str:
    return f"{metrics['rows']:,.0f} images encoded, {metrics['quarantined']:,.0f} samples quarantined"


def warnings(metrics: Mapping[str, float]) -> list[str]:
    from data_pipelines.tokens.collapse import collapse_warnings

    return collapse_warnings(metrics)


TOKENIZE_IMAGES = StageKind(
    name="tokenize_images",
    version=2,
    config=TokenizeImagesConfig,
    execution=TokenizeExecution,
    run=run,
    inputs={"datasets": DATASETS, "tokenizer": Slot(kind="tokenizer@1")},
    output="tokens@1",
    metrics=METRICS,
    headline=headline,
    warnings=warnings,
    rows_name_samples=True,
)
