"""Metrics of shards are summed by name."""

from pathlib import Path

from orchestrator.shards import Quarantined, ShardOutcome, ShardRecord, sum_metrics


def record(outcome: ShardOutcome) -> ShardRecord:
    return ShardRecord(shard="s", fingerprint="0" * 64, path=Path("x"), files=(), outcome=outcome, reused=False)


def test_rows_quarantined_items_and_own_metrics_are_summed() -> None:
    outcomes = [
        ShardOutcome(rows=3, metrics={"kept": 2.0, "bytes": 10.0}),
        ShardOutcome(rows=1, metrics={"kept": 1.0}, quarantined=(Quarantined(item=1, reason="x"),)),
    ]
    summed = sum_metrics(map(record, outcomes))
    assert summed == {"rows": 4.0, "quarantined": 1.0, "kept": 3.0, "bytes": 10.0}


def test_no_shards_have_zero_counts() -> None:
    assert sum_metrics([]) == {"rows": 0.0, "quarantined": 0.0}
