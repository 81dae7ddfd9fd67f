"""Keeps the records that are worth learning from, and gives the reason for every one that it drops.

No image of an evaluation set is kept, in any split; the sets are records of ingest stages, with or without texts:
  bench: {kind: ingest, config: {read: {source: bench, format: images_only}, paths: [bench], images: [bench]}}
  curated:
    kind: curate
    inputs: {records: [web, photos], evaluation: [bench]}
    gates: {reason/contaminated_share: {at_most: 0.0, severity: warning}, evaluation_unread: {at_most: 0}}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.curation.config import (
    MEASURED,
    NOT_JUDGED,
    STORED,
    CurationConfig,
    decode_limits,
    judge_config,
    stored_size,
)
from data_pipelines.datasets.reasons import REASONS, RENAMED_REASONS
from data_pipelines.datasets.verdicts import COLUMN_METRICS, LEDGER_COLUMNS, VERDICTS
from data_pipelines.images.limits import StoredSize
from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import NothingKeptError, PrecheckError
from orchestrator.identity import semantic_config, semantic_json
from orchestrator.shards import Shard, ShardRecord, sum_metrics
from orchestrator.stage import Slot, StageContext, StageKind
from stages.curation.copy_search import search_for_copies
from stages.curation.drawing_looks import looks_on_workers
from stages.curation.ingested_shards import IngestedShard, all_rows_shard, ingested_shards
from stages.curation.scoring_config import check_use_of_scores, score_tables, with_scores
from stages.curation.workers import EmitWorker, JudgeWorker, MeasureWorker
from stages.node_data import is_shard, open_inputs

if TYPE_CHECKING:
    from data_pipelines.curation.contamination import ContaminationVerdict

# Kept records of which a part is not trained on, by metric, and how the headline says it.
NOT_TRAINED = {
    "kept_without_anchor": "{:,.0f} fit no anchor",
    "kept_with_system_turn": "{:,.0f} with a system turn that is not trained on",
}
EVALUATION_METRICS = ("evaluation_images", "evaluation_unread")  # unread: samples with an image not compared
NUM_SHOWN_REASONS, NUM_HEADLINE_REASONS = 3, 3
REASON_COUNT_PREFIX = "reason "  # of a reason's name, in the metrics of a shard


def run(config: CurationConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.curation.emit import write_dataset
    from data_pipelines.datasets.column_metrics import column_metrics
    from data_pipelines.ingest.files.orphans import merge_orphans

    open_inputs(context.node_inputs)
    ingested, evaluation = ingested_shards(context.inputs("records")), _evaluation_sets(context)
    measured = _measure(config, context, ingested, stored=stored_size(config))
    judged = _judge(config, context, ingested, measured, context.inputs("scores"))
    contaminated, evaluation_metrics = _find_contaminated(config, context, evaluation, judged)
    emitted = _emit(config, context, ingested, measured, judged, contaminated)
    for record in emitted:
        context.adopt(record)
    ledgers = {record.shard: record.file(f"ledger/{record.shard}.parquet") for record in emitted}
    totals = write_dataset(context.output, context.stage_id, ledgers, config)
    merge_orphans([artifact.path for artifact in context.inputs("records")], context.output)
    described = {path.name: path for path in context.output.iterdir() if path.is_file()}
    context.keep_if_failed(described | {f"ledger/{name}.parquet": path for name, path in ledgers.items()})
    quarantined = sum(len(record.outcome.quarantined) for record in [*measured.values(), *judged.values()])
    if not totals["keep"]:
        raise NothingKeptError(f"{context.stage_id}: {_nothing_kept(context.output, totals['rows'])}")
    metrics = {
        **curation_metrics(totals, sum_metrics(emitted)),
        **evaluation_metrics,
        **column_metrics(ledgers.values()),
    }
    return {**metrics, "quarantined": quarantined}


def _evaluation_sets(context: StageContext) -> list[Artifact]:
    """The artifacts in the slot `evaluation`, without repetitions. Raises: PrecheckError if one is in `records` too."""
    artifacts = {artifact.fingerprint: artifact for artifact in context.inputs("evaluation")}
    if not artifacts.keys().isdisjoint(artifact.fingerprint for artifact in context.inputs("records")):
        raise PrecheckError(
            f"{context.stage_id}: the inputs records and evaluation share an artifact, so all of it would be dropped; "
            "remove it from one of them"
        )
    return list(artifacts.values())


def _measure(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, IngestedShard],
    *,
    stored: StoredSize | None = None,
) -> dict[str, ShardRecord]:
    """Measure everything that depends on no threshold, so that a changed threshold decodes nothing again."""
    shards = [all_rows_shard(name, source) for name, source in ingested.items()]
    limits = decode_limits(config)
    read = MEASURED if stored is None else (*MEASURED, *STORED)
    identity: dict[str, JSON] = {"config": semantic_config(config, only=read)}
    worker = MeasureWorker(limits=limits, stored=stored, inputs=context.node_inputs)
    made = context.map_shards(worker, shards, label="measure", identity=identity, unit="records")
    return {record.shard: record for record in made}


def _judge(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, IngestedShard],
    measured: Mapping[str, ShardRecord],
    scored: Sequence[Artifact] = (),
) -> dict[str, ShardRecord]:
    """A map of its own, as texts of millions of records are too many for the driver and may kill their process."""
    from data_pipelines.datasets.tombstones import PHASH_MARKS

    shards = []
    for name, source in ingested.items():
        record = measured[name]
        lost = {quarantined.item for quarantined in record.outcome.quarantined}
        shard = Shard(
            name=name,
            items=tuple(row for row in range(source.num_rows) if row not in lost),
            identity={**source.contents, "measured": _digest(record, f"measured/{source.shard}.parquet")},
            work={"records": source.folder, "measured": str(record.place), "shard": source.shard},
            reads=(record,),
        )
        shards.append(with_scores(shard, scored))
    thresholds, phash_marks = judge_config(config), context.tombstones.get(PHASH_MARKS, frozenset())
    made = context.map_shards(
        JudgeWorker(config=thresholds, phash_marks=phash_marks, inputs=context.node_inputs),
        shards,
        label="judge",
        identity={"config": semantic_config(config, without=NOT_JUDGED), "looks": list[JSON](sorted(phash_marks))},
        unit="records",
    )
    return {record.shard: record for record in made}


def _find_contaminated(
    config: CurationConfig, context: StageContext, artifacts: Sequence[Artifact], judged: Mapping[str, ShardRecord]
) -> tuple[dict[str, list["ContaminationVerdict"]], dict[str, float]]:
    """The records of each shard that are in an evaluation set too, and metrics of these sets; empty without a set."""
    from data_pipelines.curation.contamination import EvaluationImages, EvaluationShard, find_contaminated

    if not artifacts:
        return {}, {}
    sets = {
        f"{artifact.fingerprint[:16]}-{name}": source
        for artifact in artifacts
        for name, source in ingested_shards([artifact]).items()
    }
    judged_sets = _judge(config, context, sets, _measure(config, context, sets))
    shards = [
        EvaluationShard(
            records=Path(source.folder) / "records" / f"{source.shard}.parquet",
            analysis=_analysis(judged_sets[name], source.shard),
        )
        for name, source in sets.items()
    ]
    images = EvaluationImages(shards)
    metrics = {"evaluation_images": float(len(images.files)), "evaluation_unread": float(images.unread)}
    analyses = {name: _analysis(record, name) for name, record in judged.items()}
    return find_contaminated(analyses, images, config), metrics


def _analysis(record: ShardRecord, name: str) -> Path:
    return record.file(f"analysis/{name}.parquet")


def _emit(
    config: CurationConfig,
    context: StageContext,
    ingested: Mapping[str, IngestedShard],
    measured: Mapping[str, ShardRecord],
    judged: Mapping[str, ShardRecord],
    contaminated: Mapping[str, Sequence["ContaminationVerdict"]],
) -> list[ShardRecord]:
    """Identified by the verdicts, not by the thresholds: a shard whose verdicts stay the same is not written again."""
    from data_pipelines.curation.copies import find_duplicates

    dropped = {name: frozenset(verdict.row for verdict in found) for name, found in contaminated.items()}
    analyses = {name: _analysis(record, name) for name, record in judged.items()}
    scored = context.inputs("scores")
    tables = {name: score_tables(with_scores(Shard(name=name, items=()), scored).work) for name in ingested}
    digests = {name: _digest(record, f"analysis/{name}.parquet") for name, record in judged.items()}
    rows = sum(record.outcome.rows for record in judged.values())
    search = search_for_copies(config, context, analyses, digests, rows, reads=tuple(judged.values()))
    folders = {name: Path(source.folder) for name, source in ingested.items()}
    answer = looks_on_workers(context, folders, decode_limits(config))
    copies = find_duplicates(
        analyses, config, without=dropped, scores=tables, search=search, records=folders, answer=answer
    )
    smaller = stored_size(config) is not None
    shards = []
    for name, source in ingested.items():
        verdicts = [semantic_json(copy) for copy in copies[name]]
        found = [semantic_json(verdict) for verdict in contaminated.get(name, ())]
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
                    "analysis": str(judged[name].place),
                    "shard": name,
                    "copies": verdicts,
                    "contaminated": found,
                    **({"smaller": str(measured[name].place)} if smaller else {}),
                },
                reads=(judged[name], *([measured[name]] if smaller else [])),
            )
        )
    worker = EmitWorker(inputs=context.node_inputs)
    return context.map_shards(worker, shards, label="emit", identity={}, unit="shards")


def curation_metrics(totals: Mapping[str, int], summed: Mapping[str, float]) -> dict[str, float]:
    """Counts and shares of all records: by verdict from `totals`, by reason from the shards' summed metrics."""
    shares = {f"{name}_share": count / totals["rows"] for name, count in totals.items() if name != "rows"}
    for name, count in summed.items():
        if name.startswith(REASON_COUNT_PREFIX):
            shares[_reason_share(name.removeprefix(REASON_COUNT_PREFIX))] = count / totals["rows"]
    return {**summed, **{name: float(count) for name, count in totals.items()}, **shares}


def _reason_share(reason: str) -> str:
    return f"reason/{reason}_share"


def _metric_names() -> frozenset[str]:
    """Names of all metrics that a curation may return."""
    verdicts = [name for verdict in VERDICTS for name in (verdict, f"{verdict}_share")]
    reasons = [name for reason in REASONS for name in (f"{REASON_COUNT_PREFIX}{reason}", _reason_share(reason))]
    columns = [f"column/{column}/{metric}" for column in LEDGER_COLUMNS for metric in COLUMN_METRICS]
    return frozenset(
        [
            "rows",
            "kept_bytes",
            *NOT_TRAINED,
            "repaired",
            "quarantined",
            *EVALUATION_METRICS,
            *verdicts,
            *reasons,
            *columns,
        ]
    )


METRICS = {
    "keep": "records that are kept",
    "rows": "records in all",
    "keep_share": "share of the records that is kept",
    "kept_bytes": "bytes of the tars with the kept records",
    "reason <reason>": "records with this reason for their verdict",
    "reason/<reason>_share": "share of all records with this reason",
    **{
        name: text
        for verdict, meaning in {
            "drop": "dropped by a rule",
            "duplicate": "dropped as copies",
            "near_duplicate": "dropped as near copies",
            "mirrored": "dropped as mirrored copies",
        }.items()
        for name, text in ((verdict, f"records {meaning}"), (f"{verdict}_share", f"share of the records {meaning}"))
    },
    "repaired": "records whose text was repaired",
    "kept_without_anchor": "kept records whose first image fits no anchor: no image tokenizer is trained on it",
    "kept_with_system_turn": "kept records with a system turn, which is kept beside the text and not trained on",
    "evaluation_images": "images of the evaluation sets that were compared with",
    "evaluation_unread": "samples of the evaluation sets with an image that was not compared",
    "column/<column>/<metric>": "a column of the kept rows: count, nullCount, sum, min, max",
    "quarantined": "records that broke their worker",
}


def headline(metrics: Mapping[str, float]) -> str:
    """`kept 238 of 595 (9 fit no anchor): 120 too_small, 80 caption_empty, 30 same_record`."""
    reasons = {
        name.removeprefix(REASON_COUNT_PREFIX): count
        for name, count in metrics.items()
        if name.startswith(REASON_COUNT_PREFIX) and count
    }
    most = sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0]))[:NUM_HEADLINE_REASONS]
    kept = f"kept {metrics['keep']:,.0f} of {metrics['rows']:,.0f}"
    notes = [text.format(metrics[name]) for name, text in NOT_TRAINED.items() if metrics.get(name)]
    kept += f" ({', '.join(notes)})" if notes else ""
    shown = ", ".join(f"{count:,.0f} {reason}" for reason, count in most)
    return f"{kept}: {shown}{_and_more(len(reasons) - len(most))}" if most else kept


def _and_more(count: int) -> str:
    return f" and {count} more reason{'s' * (count > 1)}" if count > 0 else ""


def _nothing_kept(output: Path, num_rows: int) -> str:
    import json

    if not num_rows:
        return "found no record in its inputs; check the files that its ingest stages read"
    reasons: Mapping[str, int] = json.loads((output / "dataset.json").read_text())["reasons"]
    most = sorted(reasons.items(), key=lambda reason: -reason[1])[:NUM_SHOWN_REASONS]
    found = ", ".join(f"{count} x {reason}" for reason, count in most) + _and_more(len(reasons) - len(most))
    return (
        f"found {num_rows} records and none to keep ({found}); loosen the thresholds in the stage's config, or repair "
        "the files that its ingest stages read"
    )


def _digest(record: ShardRecord, path: str) -> str:
    """SHA-256 of a file of a finished shard."""
    return next(entry.sha256 for entry in record.files if entry.path == path)


CURATE = StageKind(
    name="curate",
    version=7,
    config=CurationConfig,
    run=run,
    inputs={
        "records": Slot(kind="records@1", many=True, streamed=is_shard),
        # whose images must not be in the output
        "evaluation": Slot(kind="records@1", many=True, required=False, streamed=is_shard),
        "scores": Slot(kind="scores@1", many=True, required=False, streamed=is_shard),
    },
    output="dataset@1",
    precheck=check_use_of_scores,
    metric_names=_metric_names(),
    metrics=METRICS,
    headline=headline,
    renamed_metrics={
        "evaluation_pictures": "evaluation_images",
        **{_reason_share(old): _reason_share(new) for old, new in RENAMED_REASONS.items()},
        **{f"{REASON_COUNT_PREFIX}{old}": f"{REASON_COUNT_PREFIX}{new}" for old, new in RENAMED_REASONS.items()},
    },
)
