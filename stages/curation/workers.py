"""The shard workers of a curation: measure, judge and write shards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.curation.config import CurationConfig
from data_pipelines.images.limits import DecodeLimits, StoredSize
from orchestrator.shards import ShardInput, ShardOutcome
from orchestrator.stage import NodeInputs
from stages.curation.scoring_config import score_tables
from stages.node_data import open_inputs


@dataclass(frozen=True, kw_only=True)
class MeasureWorker:
    """Decodes and measures every image; items are the rows of an ingested shard."""

    limits: DecodeLimits
    stored: StoredSize | None = None  # maximum size of stored images
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.curation.measure import measure_shard

        open_inputs(self.inputs)

        def run(shard: ShardInput) -> ShardOutcome:
            rows = _rows(shard)
            records, name = Path(str(shard.work["records"])), str(shard.work["shard"])
            counts = measure_shard(records, name, shard.output, self.limits, stored=self.stored, rows=rows)
            return ShardOutcome(rows=len(rows), metrics={key: float(count) for key, count in counts.items()})

        return run


@dataclass(frozen=True, kw_only=True)
class JudgeWorker:
    """Applies the thresholds to the measurements; items are the measured rows of a shard."""

    config: CurationConfig
    phash_marks: frozenset[str]  # perceptual hashes of images that were taken down
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.curation.judge import judge_shard
        from data_pipelines.datasets.tombstones import PHASH_MARKS, marks_to_tombstones
        from data_pipelines.scoring.tables import read_scores

        open_inputs(self.inputs)
        tombstones = marks_to_tombstones({PHASH_MARKS: self.phash_marks})

        def run(shard: ShardInput) -> ShardOutcome:
            rows = _rows(shard)
            records, measured = Path(str(shard.work["records"])), Path(str(shard.work["measured"]))
            counts = judge_shard(
                records,
                measured,
                str(shard.work["shard"]),
                shard.output,
                self.config,
                rows=rows,
                tombstones=tombstones,
                scores=read_scores(score_tables(shard.work)),
            )
            return ShardOutcome(rows=len(rows), metrics={key: float(count) for key, count in counts.items()})

        return run


@dataclass(frozen=True, kw_only=True)
class EmitWorker:
    """Writes the kept samples of a shard and its ledger."""

    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.curation.contamination import ContaminationVerdict
        from data_pipelines.curation.copies import CopyVerdict
        from data_pipelines.curation.emit import emit_shard

        open_inputs(self.inputs)

        def run(shard: ShardInput) -> ShardOutcome:
            work = shard.work
            copies = [CopyVerdict(**copy) for copy in work["copies"]]  # type: ignore[union-attr,arg-type]  # JSON
            records, analysis, name = Path(str(work["records"])), Path(str(work["analysis"])), str(work["shard"])
            found = [ContaminationVerdict(**verdict) for verdict in work["contaminated"]]  # type: ignore[union-attr,arg-type]  # JSON
            resized = Path(str(work["smaller"])) if "smaller" in work else None
            counts = emit_shard(
                records,
                analysis,
                name,
                shard.output,
                copies=copies,
                contaminated=found,
                resized=resized,
            )
            return ShardOutcome(rows=counts["rows"], metrics={key: float(count) for key, count in counts.items()})

        return run


def _rows(shard: ShardInput) -> set[int]:
    return {int(item) for item in shard.items if isinstance(item, int)}
