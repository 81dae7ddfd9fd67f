import logging

import pytest

from orchestrator.shard_map import map_log
from orchestrator.shard_map.map_log import MapLog
from orchestrator.shards import Quarantined, ShardOutcome


def outcome(rows: int, *, keep: int, quarantined: int = 0) -> ShardOutcome:
    return ShardOutcome(
        rows=rows,
        metrics={"keep": float(keep), "drop": float(rows - keep), "rows": float(rows)},
        quarantined=tuple(Quarantined(item=number, reason="x") for number in range(quarantined)),
    )


def test_a_map_logs_its_plan_its_progress_with_counts_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [100.0]
    log = MapLog("curated: judge", num_shards=4, num_items=40, unit="records", clock=lambda: now[0])
    log.planned([outcome(10, keep=9)], num_missing=3, workers=2)
    log.recorded(outcome(10, keep=5), items_done=20, items_made=10)  # too early for a line
    now[0] += map_log.PROGRESS_S
    log.recorded(outcome(10, keep=4, quarantined=1), items_done=30, items_made=20)
    log.recorded(outcome(10, keep=2), items_done=40, items_made=30)
    log.finished()
    assert [record.getMessage() for record in caplog.records] == [
        "curated: judge: 4 shards of 40 records, 1 of them exist, 3 to make with up to 2 workers",
        "curated: judge: 3 of 4 shards, 30 of 40 records, 2/s, 5 s left: rows 30, keep 18, drop 12, quarantined 1",
        "curated: judge: 4 shards done in 10.0 s: rows 40, keep 20, drop 20, quarantined 1",
    ]
