"""Probes of a map in which nothing has worked yet: is the code at fault, or are items?

A few single items, spread over all unfinished shards. The code is at fault if all fail with the same class of error at
the same line, and one of them in a second process too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.shard_map.bisection import TrialFailure, all_same_failure, evenly_spaced
from orchestrator.shard_map.pending import PendingShard

NUM_PROBES = 4


@dataclass(kw_only=True)
class Probes:
    num_open: int = 0
    suspects: list[PendingShard] = field(default_factory=list)  # failed shards that wait for the results
    _results: dict[tuple[str, int], TrialFailure | None] = field(default_factory=dict)
    processes: set[int] = field(default_factory=set)  # in which a probe ran

    @property
    def are_done(self) -> bool:
        return bool(self._results) and not self.num_open

    @property
    def num_items(self) -> int:
        return len(self._results)

    @property
    def all_fail_alike(self) -> bool:
        return all_same_failure(list(self._results.values()))

    def choose(self, unfinished: Sequence[PendingShard]) -> list[tuple[PendingShard, int]]:
        """The items to probe, which are from now on waited for."""
        candidates = [(pending, position) for pending in unfinished for position in pending.remaining]
        chosen = [candidates[index] for index in evenly_spaced(len(candidates), NUM_PROBES)]
        self.num_open = len(chosen)
        return chosen

    def add(self, fingerprint: str, position: int, failure: TrialFailure | None, process: int) -> None:
        self._results[fingerprint, position] = failure
        self.processes.add(process)
        self.num_open -= 1

    def take_suspects(self) -> list[PendingShard]:
        suspects, self.suspects = self.suspects, []
        return suspects
