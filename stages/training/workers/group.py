"""The contract between the stage's driver and its running workers."""

from collections.abc import Collection, Mapping
from typing import Protocol

from stages.training.workers.reports import Report


class WorkerGroup(Protocol):
    """The running workers of one attempt; making it starts them."""

    def wait(self, timeout_s: float) -> bool:
        """Whether the group has ended, within the timeout."""

    def collect(self, stop: bool) -> Report | None:
        """Take what the workers reported, and pass a stop request on. None: it cannot be had now."""

    def stacks(self, processes: Mapping[int, tuple[str, int]], *, kill: bool) -> Mapping[int, str]:
        """The stacks of workers, all taken at the same time, or why there are none; by rank. `kill` ends them."""

    def has_spare(self, nodes: Collection[str]) -> bool:
        """Whether as many workers could run without these nodes (names)."""

    def waiting_for(self) -> str:
        """What its workers wait for before they can start; empty if for nothing."""

    def error(self) -> BaseException | None:
        """What ended the group, once it has ended; None if every worker ended well."""

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        """Why it ended with `error`, for those who decide about retries. `processes`: rank -> node id, process id."""

    def close(self) -> None: ...
