"""Indexes the samples of a language model's training: made once, by workers, before any GPU is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifact import JSON
from orchestrator.identity import semantic_json
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord
from orchestrator.stage import NodeInputs, Slot, StageContext, StageKind
from stages.node_data import DATASETS, TOKENS, open_inputs
from stages.programs.index_config import IndexSamplesConfig, IndexSamplesExecution
from stages.programs.index_use import digests_of, refuse_quarantined

if TYPE_CHECKING:
    from data_pipelines.training_data.config import LoaderConfig
    from data_pipelines.training_data.index import Rendering
    from data_pipelines.training_data.sources import SourceFolders

ROWS = "rows.parquet"  # of a shard


@dataclass(frozen=True, kw_only=True)
class IndexSamplesWorker:
    """Holds the text tokenizer; an item is a shard of a dataset."""

    loader: "LoaderConfig"
    vocabulary: Path
    tokenizer: Path
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import pyarrow.parquet as pq

        from data_pipelines.training_data.index_build import selection_of
        from data_pipelines.training_data.sample_rows import sample_rows
        from data_pipelines.training_data.sources import SourceFolders
        from stages.programs.sample_data import rendering_of

        open_inputs(self.inputs)
        rendering = rendering_of(self.loader, vocabulary=self.vocabulary, tokenizer=self.tokenizer)

        def run(shard: ShardInput) -> ShardOutcome:
            source = SourceFolders(dataset=Path(str(shard.work["dataset"])), tokens=Path(str(shard.work["tokens"])))
            part = self.loader.parts[int(str(shard.work["part"]))]
            table = sample_rows(source, str(shard.work["shard"]), selection_of(part, self.loader), rendering)
            pq.write_table(table, shard.output / ROWS, compression="zstd")
            return ShardOutcome(rows=len(table))

        return run


def run(config: IndexSamplesConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.training_data.index_build import check_sources, merge_samples
    from stages.programs.sample_data import index_metrics, loader_config, rendering_of
    from stages.programs.token_pairing import pair_tokens

    node_inputs = context.node_inputs
    open_inputs(node_inputs)
    loader = loader_config(config)
    folders = {slot: context.input(slot).path for slot in ("vocabulary", "tokenizer")}
    datasets, tokens = ([artifact.path for artifact in context.inputs(slot)] for slot in ("datasets", "tokens"))
    sources = pair_tokens("index_samples", datasets, tokens)
    rendering = rendering_of(loader, **folders)
    check_sources(sources, loader, rendering)
    records = context.map_shards(
        IndexSamplesWorker(loader=loader, inputs=node_inputs, **folders),
        _shards(loader, sources, digests_of(context, ("datasets", "tokens"))),
        label="index",
        identity=_rendering_identity(rendering),
        unit="shards",
    )
    refuse_quarantined(context.stage_id, records)
    guards = context.execution(IndexSamplesExecution)
    index = merge_samples(sources, loader, rendering, context.output, _tables(loader, sources, records), guards)
    return {"samples": float(index.num_samples), **index_metrics(index)}


def _shards(loader: "LoaderConfig", sources: "Sequence[SourceFolders]", digests: Mapping[Path, str]) -> list[Shard]:
    """A shard for each part and shard of its dataset. Their identities name no part, so that parts can share them."""
    from data_pipelines.datasets.reader import CuratedDataset, tar_name
    from data_pipelines.training_data.index_build import selection_of
    from data_pipelines.training_data.sources import token_name

    found: list[Shard] = []
    for number, part in enumerate(loader.parts):
        source = sources[part.dataset]
        selection = semantic_json(selection_of(part, loader))
        for shard in CuratedDataset(source.dataset).shards:
            tokens = digests.get(source.tokens / token_name(shard)) if source.tokens is not None else None
            identity: dict[str, JSON] = {
                "ledger": digests[source.dataset / "ledger" / f"{shard}.parquet"],
                "tar": digests[source.dataset / tar_name(shard)],
                "tokens": tokens,
                "selection": selection,
            }
            work: dict[str, JSON] = {
                "part": number,
                "shard": shard,
                "dataset": str(source.dataset),
                "tokens": str(source.tokens),
            }
            found.append(Shard(name=f"{number}-{shard}", items=(shard,), identity=identity, work=work))
    return found


def _rendering_identity(rendering: "Rendering") -> dict[str, JSON]:
    return {
        "text_tokenizer": rendering.tokenizer.digest,
        "vocabulary": semantic_json(rendering.vocabulary),
        "sizes": semantic_json(rendering.sizes),
    }


def _tables(
    loader: "LoaderConfig", sources: "Sequence[SourceFolders]", records: Sequence[ShardRecord]
) -> Iterator[Iterator[Any]]:
    """For each part the tables of its shards, one at a time."""
    import pyarrow.parquet as pq

    from data_pipelines.datasets.reader import CuratedDataset

    of_all = iter(records)
    for part in loader.parts:
        shards = CuratedDataset(sources[part.dataset].dataset).shards
        yield (pq.read_table(next(of_all).file(ROWS), use_threads=False) for _ in shards)


METRICS = {
    "samples": "samples of all parts, those that are not trained on included",
    "dropped/<reason>": "samples that cannot be trained on, by reason",
    "held_out": "samples that are never trained on, by held_out_share",
}


def headline(metrics: Mapping[str, float]) -> str:
    dropped = sum(value for name, value in metrics.items() if name.startswith("dropped/"))
    return f"{metrics['samples']:,.0f} samples, {dropped:,.0f} dropped"


INDEX_SLOT = Slot(kind="sample_index@1", required=False, decides=False)  # of a training
INDEX_SAMPLES = StageKind(
    name="index_samples",
    version=1,
    config=IndexSamplesConfig,
    execution=IndexSamplesExecution,
    run=run,
    inputs={
        "datasets": DATASETS,
        "tokens": TOKENS,
        "tokenizer": Slot(kind="tokenizer@1"),
        "vocabulary": Slot(kind="vocabulary@1"),
    },
    output="sample_index@1",
    metrics=METRICS,
    headline=headline,
)
