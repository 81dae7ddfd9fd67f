"""Keep the records that are worth learning from, and say of every other one why it was dropped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.curation_config import VERDICTS, CurationConfig
from data_pipelines.reasons import REASONS
from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import PrecheckError
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import Slot, StageContext, StageKind
from stages.totals import sum_stats

NUM_SHOWN_REASONS = 5
REASON_COUNT = "reason "  # before a reason, in the figures of a shard


@dataclass(frozen=True, kw_only=True)
class AnalyseWorker:
    """Looks at every record by itself; items are the rows of an ingested shard."""

    config: CurationConfig
    tombstones: Mapping[str, frozenset[str]]

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.curation import analyse_shard
        from data_pipelines.tombstones import tombstones_from_marks

        tombstones = tombstones_from_marks(self.tombstones)

        def run(shard: ShardInput) -> ShardOutcome:
            rows = {int(item) for item in shard.items if isinstance(item, int)}
            records, name = Path(str(shard.work["records"])), str(shard.work["shard"])
            counts = analyse_shard(records, name, shard.output, self.config, rows=rows, tombstones=tombstones)
            return ShardOutcome(rows=len(rows), stats={key: float(count) for key, count in counts.items()})

        return run


@dataclass(frozen=True, kw_only=True)
class EmitWorker:
    """Writes the kept samples of a shard and its ledger."""

    config: CurationConfig

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.curated_shards import emit_shard
        from data_pipelines.curation import CopyVerdict

        def run(shard: ShardInput) -> ShardOutcome:
            work = shard.work
            copies = [CopyVerdict(**copy) for copy in work["copies"]]  # type: ignore[union-attr,arg-type]  # JSON
            records, analysis, name = Path(str(work["records"])), Path(str(work["analysis"])), str(work["shard"])
            counts = emit_shard(records, analysis, name, shard.output, self.config, copies=copies)
            return ShardOutcome(rows=counts["rows"], stats={key: float(count) for key, count in counts.items()})

        return run


def run(config: CurationConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.curated_shards import write_dataset
    from data_pipelines.curation import find_duplicates
    from data_pipelines.orphans import merge_orphans

    ingested = _ingested_shards(context.inputs("records"))
    analysed = context.map_shards(
        AnalyseWorker(config=config, tombstones=context.tombstones),
        [_analysis_shard(name, artifact) for name, artifact in ingested.items()],
        label="analyse",
        identity={"config": repr(config)},
        unit="records",
    )
    analyses = {record.shard: record for record in analysed}
    copies = find_duplicates(
        {name: record.path / "analysis" / f"{name}.parquet" for name, record in analyses.items()}, config
    )
    shards = []
    for name, artifact in ingested.items():
        verdicts: list[JSON] = [dict(vars(copy)) for copy in copies[name]]
        shards.append(
            Shard(
                name=name,
                items=(name,),
                identity={"analysis": analyses[name].fingerprint, "copies": verdicts},
                work={
                    "records": str(artifact.path),
                    "analysis": str(analyses[name].path),
                    "shard": name,
                    "copies": verdicts,
                },
            )
        )
    emitted = context.map_shards(
        EmitWorker(config=config), shards, label="emit", identity={"config": repr(config)}, unit="shards"
    )
    for record in emitted:
        context.adopt(record)
    ledgers = {record.shard: record.path / "ledger" / f"{record.shard}.parquet" for record in emitted}
    totals = write_dataset(context.output, context.stage_id, ledgers, config)
    merge_orphans([artifact.path for artifact in context.inputs("records")], context.output)
    quarantined = sum(len(record.outcome.quarantined) for record in analysed)
    if not totals["keep"]:
        raise PrecheckError(f"{context.stage_id}: {_nothing_kept(context.output, totals['rows'])}")
    return {**figures_of(totals, sum_stats(emitted)), "quarantined": quarantined}


def figures_of(totals: Mapping[str, int], summed: Mapping[str, float]) -> dict[str, float]:
    """Counts and shares of all records: by verdict from `totals`, by reason from the shards' own figures."""
    shares = {f"{name}_share": count / totals["rows"] for name, count in totals.items() if name != "rows"}
    for name, count in summed.items():
        if name.startswith(REASON_COUNT):
            shares[_reason_share(name.removeprefix(REASON_COUNT))] = count / totals["rows"]
    return {**summed, **{name: float(count) for name, count in totals.items()}, **shares}


def _reason_share(reason: str) -> str:
    return f"reason/{reason}_share"


def _figures() -> frozenset[str]:
    """All that a curation may return."""
    verdicts = [name for verdict in VERDICTS for name in (verdict, f"{verdict}_share")]
    reasons = [name for reason in REASONS for name in (f"{REASON_COUNT}{reason}", _reason_share(reason))]
    return frozenset(["rows", "kept_bytes", "quarantined", *verdicts, *reasons])


def _nothing_kept(output: Path, num_rows: int) -> str:
    import json

    if not num_rows:
        return "found no record in its inputs; look at the files that its ingest stages read"
    reasons: Mapping[str, int] = json.loads((output / "dataset.json").read_text())["reasons"]
    most = sorted(reasons.items(), key=lambda reason: -reason[1])[:NUM_SHOWN_REASONS]
    found = ", ".join(f"{count} x {reason}" for reason, count in most)
    return (
        f"found {num_rows} records and none to keep ({found}); loosen the thresholds in the stage's config, or repair "
        "the files that its ingest stages read"
    )


def _ingested_shards(inputs: Sequence[Artifact]) -> dict[str, Artifact]:
    """The artifact of each shard name, in order."""
    from data_pipelines.curation import record_shards

    found: dict[str, Artifact] = {}
    for artifact in inputs:
        for name in record_shards(artifact.path):
            if name in found:
                raise PrecheckError(
                    f"two inputs of this stage both have a shard {name!r}; give their sources different file names"
                )
            found[name] = artifact
    return dict(sorted(found.items()))


def _analysis_shard(name: str, artifact: Artifact) -> Shard:
    files = {entry.path: entry for entry in artifact.manifest.files}
    records = files[f"records/{name}.parquet"]
    rows = _num_rows(artifact.path / records.path)
    return Shard(
        name=name,
        items=tuple(range(rows)),
        identity={"records": records.sha256, "images": files[f"images/{name}.tar"].sha256},
        work={"records": str(artifact.path), "shard": name},
    )


def _num_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


CURATE = StageKind(
    name="curate",
    version=2,
    config=CurationConfig,
    run=run,
    inputs={"records": Slot(kind="records@1", many=True)},
    output="dataset@1",
    figures=_figures(),
)
