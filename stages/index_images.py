"""Indexes the distinct images of datasets for a training on single images: made once, before any GPU is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifact import JSON
from orchestrator.identity import semantic_json
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord
from orchestrator.stage import NodeInputs, Slot, StageContext, StageKind
from stages.node_data import DATASETS, OPTIONAL_TOKENS, open_inputs
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import digests_of, refuse_quarantined

if TYPE_CHECKING:
    from data_pipelines.training_data.image_index import ImageSelection
    from data_pipelines.training_data.sources import SourceFolders

ROWS = "rows.parquet"  # of a shard


@dataclass(frozen=True, kw_only=True)
class IndexImagesWorker:
    """An item is a shard of a dataset."""

    selection: "ImageSelection"
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import pyarrow.parquet as pq

        from data_pipelines.datasets.reader import CuratedDataset
        from data_pipelines.training_data.image_index import rows_to_table, shard_images, usable_ids
        from data_pipelines.training_data.sources import SourceFolders

        open_inputs(self.inputs)

        def run(shard: ShardInput) -> ShardOutcome:
            tokens = shard.work["tokens"]
            source = SourceFolders(
                dataset=Path(str(shard.work["dataset"])), tokens=Path(str(tokens)) if tokens else None
            )
            name = str(shard.work["shard"])
            usable = usable_ids(source, name, self.selection)
            rows = shard_images(CuratedDataset(source.dataset), name, self.selection, usable)
            pq.write_table(rows_to_table(rows), shard.output / ROWS, compression="zstd")
            return ShardOutcome(rows=len(rows))

        return run


def run(config: IndexImagesConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.training_data.image_index import merge_images
    from stages.programs.image_data import image_sources, selection_of

    node_inputs = context.node_inputs
    open_inputs(node_inputs)
    datasets, tokens = ([artifact.path for artifact in context.inputs(slot)] for slot in ("datasets", "tokens"))
    selection = selection_of(config)
    sources = image_sources(datasets, tokens if config.tokenized else None)
    records = context.map_shards(
        IndexImagesWorker(selection=selection, inputs=node_inputs),
        _shards(sources, digests_of(context, ("datasets", "tokens"))),
        label="index",
        identity={"selection": semantic_json(selection)},
        unit="shards",
    )
    refuse_quarantined(context.stage_id, records)
    index = merge_images(
        context.output, [CuratedDataset(source.dataset) for source in sources], selection, _rows(records)
    )
    return {"images": float(sum(len(group) for group in index.groups)), "anchors": float(len(index.groups))}


def _shards(sources: "Sequence[SourceFolders]", digests: Mapping[Path, str]) -> list[Shard]:
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.training_data.sources import token_name

    found: list[Shard] = []
    for number, source in enumerate(sources):
        for shard in CuratedDataset(source.dataset).shards:
            tokens = None if source.tokens is None else digests.get(source.tokens / token_name(shard))
            ledger = digests[source.dataset / "ledger" / f"{shard}.parquet"]
            work: dict[str, JSON] = {
                "shard": shard,
                "dataset": str(source.dataset),
                "tokens": str(source.tokens) if source.tokens else None,
            }
            identity: dict[str, JSON] = {"ledger": ledger, "tokens": tokens}
            found.append(Shard(name=f"{number}-{shard}", items=(shard,), identity=identity, work=work))
    return found


def _rows(records: Sequence[ShardRecord]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    from data_pipelines.training_data.image_index import table_to_rows

    for record in records:
        yield table_to_rows(pq.read_table(record.file(ROWS), use_threads=False))


METRICS = {"images": "distinct images with an anchor", "anchors": "sizes that they are cropped to"}


def headline(metrics: Mapping[str, float]) -> str:
    return f"{metrics['images']:,.0f} images of {metrics['anchors']:.0f} sizes"


INDEX_SLOT = Slot(kind="image_index@1", required=False, decides=False)  # of a training
INDEX_IMAGES = StageKind(
    name="index_images",
    version=1,
    config=IndexImagesConfig,
    run=run,
    inputs={
        "datasets": DATASETS,
        "tokens": OPTIONAL_TOKENS,
    },
    output="image_index@1",
    metrics=METRICS,
    headline=headline,
)
