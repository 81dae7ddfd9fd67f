"""Sums over the records of a shard map, for a stage's figures."""

from collections.abc import Iterable

from orchestrator.shards import ShardRecord


def sum_stats(records: Iterable[ShardRecord]) -> dict[str, float]:
    """The shards' own figures added up by name, with `rows` and `quarantined` beside them."""
    totals = {"rows": 0.0, "quarantined": 0.0}
    for record in records:
        totals["rows"] += record.outcome.rows
        totals["quarantined"] += len(record.outcome.quarantined)
        for name, value in record.outcome.stats.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
