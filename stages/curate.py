"""Keep the records that are worth learning from, and say of every other one why it was dropped.

No picture of an evaluation set is kept, in no split; the sets are records of ingest stages, with or without words:
  bench: {kind: ingest, config: {read: {source: bench, format: pictures}, paths: [bench], images: [bench]}}
  curated:
    kind: curate
    inputs: {records: [web, photos], evaluation: [bench]}
    gates: {reason/contaminated_share: {at_most: 0.0, severity: warning}, evaluation_unread: {at_most: 0}}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.curation.config import CurationConfig, emitting, judging, measuring, storing
from data_pipelines.datasets.reasons import REASONS
from data_pipelines.datasets.verdicts import COLUMN_METRICS, LEDGER_COLUMNS, VERDICTS
from data_pipelines.images.limits import StoredSize
from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import PrecheckError
from orchestrator.shards import Shard, ShardRecord, sum_stats
from orchestrator.stage import Slot, StageContext, StageKind
from stages.curation.copy_search import search_for_copies
from stages.curation.ingested_shards import Ingested, ingested_shards, shard_of
from stages.curation.scoring_config import check_use_of_scores, tables_of, with_scores
from stages.curation.workers import EmitWorker, JudgeWorker, MeasureWorker

if TYPE_CHECKING:
    from data_pipelines.curation.contamination import ContaminationVerdict

EVALUATION_FIGURES = ("evaluation_pictures", "evaluation_unread")  # the second: samples not looked at as a whole
NUM_SHOWN_REASONS = 5
REASON_COUNT = "reason "  # before a reason, in the figures of a shard


def run(config: CurationConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.curation.emit import write_dataset
    from data_pipelines.datasets.column_metrics import column_figures
    from data_pipelines.ingest.orphans import merge_orphans

    ingested, evaluation = ingested_shards(context.inputs("records")), _evaluation_sets(context)
    measured = _measure(config, context, ingested, stored=storing(config))
    judged = _judge(config, context, ingested, measured, context.inputs("scores"))
    contaminated, evaluation_figures = _contaminated(config, context, evaluation, judged)
    emitted = _emit(config, context, ingested, measured, judged, contaminated)
    for record in emitted:
        context.adopt(record)
    ledgers = {record.shard: record.path / "ledger" / f"{record.shard}.parquet" for record in emitted}
    totals = write_dataset(context.output, context.stage_id, ledgers, config)
    merge_orphans([artifact.path for artifact in context.inputs("records")], context.output)
    quarantined = sum(len(record.outcome.quarantined) for record in [*measured.values(), *judged.values()])
    if not totals["keep"]:
        raise PrecheckError(f"{context.stage_id}: {_nothing_kept(context.output, totals['rows'])}")
    figures = {**figures_of(totals, sum_stats(emitted)), **evaluation_figures, **column_figures(ledgers.values())}
    return {**figures, "quarantined": quarantined}


def _evaluation_sets(context: StageContext) -> list[Artifact]:
    """Each artifact in the slot once."""
    artifacts = {artifact.fingerprint: artifact for artifact in context.inputs("evaluation")}
    if not artifacts.keys().isdisjoint(artifact.fingerprint for artifact in context.inputs("records")):
        raise PrecheckError(
            f"{context.stage_id}: one artifact is in both inputs, records and evaluation, so that all of it would be "
            "dropped; leave it out of one of them"
        )
    return list(artifacts.values())


def _measure(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, Ingested],
    *,
    stored: StoredSize | None = None,
) -> dict[str, ShardRecord]:
    """What depends on no threshold, so that a changed one decodes nothing again."""
    shards = [shard_of(name, source) for name, source in ingested.items()]
    limits = measuring(config)
    identity: dict[str, JSON] = {"limits": repr(limits)}
    if stored is not None:
        identity["stored"] = repr(stored)
    worker = MeasureWorker(limits=limits, stored=stored)
    made = context.map_shards(worker, shards, label="measure", identity=identity, unit="records")
    return {record.shard: record for record in made}


def _judge(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, Ingested],
    measured: Mapping[str, ShardRecord],
    scored: Sequence[Artifact] = (),
) -> dict[str, ShardRecord]:
    """A map of its own, as words of millions of records are too many for the driver and may kill their process."""
    from data_pipelines.datasets.tombstones import LOOKS

    shards = []
    for name, source in ingested.items():
        facts = measured[name]
        lost = {one.item for one in facts.outcome.quarantined}
        shard = Shard(
            name=name,
            items=tuple(row for row in range(source.num_rows) if row not in lost),
            identity={**source.contents, "measured": _digest(facts, f"measured/{source.shard}.parquet")},
            work={"records": source.folder, "measured": str(facts.path), "shard": source.shard},
        )
        shards.append(with_scores(shard, scored))
    thresholds, looks = judging(config), context.tombstones.get(LOOKS, frozenset())
    made = context.map_shards(
        JudgeWorker(config=thresholds, looks=looks),
        shards,
        label="judge",
        identity={"config": repr(thresholds), "looks": list[JSON](sorted(looks))},
        unit="records",
    )
    return {record.shard: record for record in made}


def _contaminated(
    config: CurationConfig, context: StageContext, artifacts: Sequence[Artifact], judged: Mapping[str, ShardRecord]
) -> tuple[dict[str, list["ContaminationVerdict"]], dict[str, float]]:
    """What of each shard the evaluation sets hold too, and figures about these; nothing without such a set."""
    from data_pipelines.curation.contamination import EvaluationPictures, EvaluationShard, find_contaminated

    if not artifacts:
        return {}, {}
    sets = {
        f"{one.fingerprint[:16]}-{name}": source for one in artifacts for name, source in ingested_shards([one]).items()
    }
    looked_at = _judge(config, context, sets, _measure(config, context, sets))
    shards = [
        EvaluationShard(
            records=Path(source.folder) / "records" / f"{source.shard}.parquet",
            analysis=_analysis(looked_at[name], source.shard),
        )
        for name, source in sets.items()
    ]
    pictures = EvaluationPictures(shards)
    figures = {"evaluation_pictures": float(len(pictures.files)), "evaluation_unread": float(pictures.unread)}
    analyses = {name: _analysis(record, name) for name, record in judged.items()}
    return find_contaminated(analyses, pictures, config), figures


def _analysis(record: ShardRecord, name: str) -> Path:
    return record.path / "analysis" / f"{name}.parquet"


def _emit(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, Ingested],
    measured: Mapping[str, ShardRecord],
    judged: Mapping[str, ShardRecord],
    contaminated: Mapping[str, Sequence["ContaminationVerdict"]],
) -> list[ShardRecord]:
    """Known by what was judged, not by the thresholds: a shard in which a changed one changes nothing stays."""
    from data_pipelines.curation.copies import find_duplicates

    dropped = {name: frozenset(verdict.row for verdict in found) for name, found in contaminated.items()}
    analyses = {name: _analysis(record, name) for name, record in judged.items()}
    scored = context.inputs("scores")
    tables = {name: tables_of(with_scores(Shard(name=name, items=()), scored).work) for name in ingested}
    digests = {name: _digest(record, f"analysis/{name}.parquet") for name, record in judged.items()}
    rows = sum(record.outcome.rows for record in judged.values())
    search = search_for_copies(config, context, analyses, digests, rows)
    copies = find_duplicates(analyses, config, without=dropped, scores=tables, search=search)
    smaller = storing(config) is not None
    shards = []
    for name, source in ingested.items():
        verdicts: list[JSON] = [dict(vars(copy)) for copy in copies[name]]
        found: list[JSON] = [dict(vars(verdict)) for verdict in contaminated.get(name, ())]
        shards.append(
            Shard(
                name=name,
                items=(name,),
                identity={
                    **source.contents,
                    "analysis": digests[name],
                    "copies": verdicts,
                    **({"contaminated": found} if found else {}),  # shards that no evaluation set touches stay the same
                    **({"smaller": _digest(measured[name], f"smaller/{name}.tar")} if smaller else {}),
                },
                work={
                    "records": source.folder,
                    "analysis": str(judged[name].path),
                    "shard": name,
                    "copies": verdicts,
                    "contaminated": found,
                    **({"smaller": str(measured[name].path)} if smaller else {}),
                },
            )
        )
    written = emitting(config)
    worker, identity = EmitWorker(config=written), {"config": repr(written)}
    return context.map_shards(worker, shards, label="emit", identity=identity, unit="shards")


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
    columns = [f"column/{column}/{metric}" for column in LEDGER_COLUMNS for metric in COLUMN_METRICS]
    return frozenset(
        ["rows", "kept_bytes", "repaired", "quarantined", *EVALUATION_FIGURES, *verdicts, *reasons, *columns]
    )


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


def _digest(record: ShardRecord, path: str) -> str:
    """SHA-256 of a file of a finished shard."""
    return next(entry.sha256 for entry in record.files if entry.path == path)


CURATE = StageKind(
    name="curate",
    version=5,
    config=CurationConfig,
    run=run,
    inputs={
        "records": Slot(kind="records@1", many=True),
        "evaluation": Slot(kind="records@1", many=True, required=False),  # whose pictures must not be in the output
        "scores": Slot(kind="scores@1", many=True, required=False),
    },
    output="dataset@1",
    precheck=check_use_of_scores,
    figures=_figures(),
)
