"""What many recorded shards cost: requests, seconds at 30 ms for each, and CPU, to resume a map and to collect garbage.

Run: python tests/benchmarks/bench_shards.py [--shards 100000]
The store is a double in memory: nothing waits, the seconds are counted (`priced_store.py`). CPU is added to them, as if
no request ran beside it. Requests and waiting are the same on every machine; the CPU times below were taken beside
other work. A million shards take about 5 GB of memory, most of it for the double.

    1,000,000 recorded shards                     requests   waiting       CPU
    resume, none is packed (an older store)      1,003,495   482.6 s    88.9 s
    resume, all are packed                           3,495     7.9 s    61.5 s
    gc, nothing to delete                            3,098     1.6 s    30.6 s

    100,000 recorded shards                       requests   waiting       CPU
    retract all                                    100,532    47.2 s     4.8 s
    gc, all are deleted                              1,136     0.7 s     9.3 s
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.retention.shard_batches import committed_shards, retract_shards
from orchestrator.store.shard_packs import Packer
from tests.orchestrator.artifacts.test_shard_search import KIND, fingerprints, put_shard
from tests.orchestrator.store.priced_store import PricedStore


@click.command()
@click.option("--shards", default=100_000, show_default=True)
def main(shards: int) -> None:
    """Print the table."""
    store, names = PricedStore(), fingerprints(shards)
    for name in names:
        put_shard(store, name)
    click.echo(f"{f'{shards:,} recorded shards':44} {'requests':>9} {'waiting':>9} {'CPU':>9}")

    def measure(what: str, action: Callable[[], object]) -> None:
        store.forget()
        began = time.process_time()
        action()
        cpu_s = time.process_time() - began
        click.echo(f"{what:44} {sum(store.requests.values()):9,} {store.seconds:7.1f} s {cpu_s:7.1f} s")

    with tempfile.TemporaryDirectory() as folder:
        ledger = ShardLedger(store, Path(folder))
        keys = [ArtifactKey(KIND, name) for name in names]
        attempt = AttemptId.of("run", "curate", epoch=1, number=1)

        def resume() -> None:
            packer = Packer(store, KIND, "m")
            record_use(store, attempt, ArtifactKey(KIND, "ab" * 32), shards=names)
            assert len(ledger.find_many(KIND, names, packer)) == shards
            packer.close()

        measure("resume, none is packed (an older store)", resume)
        measure("resume, all are packed", resume)
        measure("gc, nothing to delete", lambda: find_garbage(store, now_s=1.0, is_live=_dead, older_than_s=0.0))
        measure("retract all", lambda: retract_shards(store, committed_shards(store, keys), reason="bench"))

        def collect() -> None:
            found = find_garbage(store, now_s=1.0, is_live=_dead, older_than_s=0.0)
            assert delete_garbage(store, found, is_live=_dead, even_in_use=True).items == shards

        measure("gc, all are deleted", collect)
        measure("gc after that", lambda: find_garbage(store, now_s=1.0, is_live=_dead, older_than_s=0.0))


def _dead(_attempt: str) -> bool:
    return False


if __name__ == "__main__":
    main()
