"""The events of a map: a worker that was lost, items that were quarantined."""

import logging
from collections.abc import Sequence

from orchestrator.artifact import JSON
from orchestrator.shard_map.pending import WorkItem
from orchestrator.shard_map.quarantine import shortened
from orchestrator.shard_map.worker_pool import CallResult
from orchestrator.shards import Quarantined
from orchestrator.stage import Tracker

log = logging.getLogger(__name__)


def report_death(tracker: Tracker, label: str, stage_id: str, result: CallResult[WorkItem]) -> None:
    report = result.error
    assert report is not None, "called for failed calls only"
    shard = result.key.pending.shard.name if result.key else None
    others = f" or one of {len(result.key.group) - 1} after it" if result.key and result.key.group else ""
    fields: dict[str, JSON] = {
        "label": label,
        "pid": result.pid,
        "shard": shard,
        "failure": report.failure,
        "message": shortened(report.summary),
    }
    tracker.log_event("worker_lost", fields)
    at = f" at shard {shard}{others}" if shard else ""
    log.warning("%s: worker %d lost%s (%s: %s)", stage_id, result.pid, at, report.failure, shortened(report.summary))


def report_quarantined(tracker: Tracker, label: str, shard: str, quarantined: Sequence[Quarantined]) -> None:
    fields: dict[str, JSON] = {
        "label": label,
        "shard": shard,
        "items": len(quarantined),
        "first_item": quarantined[0].item,
        "first_reason": shortened(quarantined[0].reason),
    }
    tracker.log_event("quarantined", fields)
