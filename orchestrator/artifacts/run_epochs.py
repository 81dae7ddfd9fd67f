"""Epochs of runs as write-once claims in the store: `runs/<run>/epochs/<epoch>.json`.

The database counts epochs; the claim makes each unique. A database that came back older (a replica that lags, a rebuilt
index) would count one of them a second time, and two drivers would believe in it.
"""

import logging
import uuid
from dataclasses import dataclass, field

from orchestrator import failpoints
from orchestrator.artifact import JSON
from orchestrator.errors import LeaseLostError
from orchestrator.store.layout import RUNS
from orchestrator.store.store import Store, record_bytes

log = logging.getLogger(__name__)

EPOCH_FORMAT = 1
EPOCH_DIGITS = 6
MAX_EPOCH = 10**9  # databases store epochs in 32 bits


@dataclass(frozen=True, kw_only=True)
class RunEpochs:
    """The claimed epochs of one run."""

    store: Store
    run_id: str
    reported: set[str] = field(default_factory=set)  # keys that were warned about

    def newest(self) -> int:
        """The newest claimed epoch; 0 if there is none, as in stores of older versions."""
        return max((self._epoch_of(item.key) for item in self.store.list(self._folder)), default=0)

    def claim(self, epoch: int, *, owner: str) -> None:
        """Claim an epoch for this driver. `owner` is shown to people.

        Raises:
            LeaseLostError: another driver has claimed it, or a newer one.
        """
        key = self.key(epoch)
        record: dict[str, JSON] = {"format": EPOCH_FORMAT, "epoch": epoch, "owner": owner, "nonce": uuid.uuid4().hex}
        if not self.store.put_new(key, record_bytes(record)):
            raise LeaseLostError(
                f"run {self.run_id}: {self.store.url}: {key}: another driver has claimed epoch {epoch}; is there a "
                f"second database? Watch the run with `illume status {self.run_id}`"
            )
        failpoints.hit("epoch.claimed")
        EpochGuard(epochs=self, epoch=epoch).check()

    def key(self, epoch: int) -> str:
        """The key of an epoch's claim."""
        return f"{self._folder}/{epoch:0{EPOCH_DIGITS}d}.json"

    @property
    def _folder(self) -> str:
        return f"{RUNS}/{self.run_id}/epochs"

    def _epoch_of(self, key: str) -> int:
        name = key.rpartition("/")[2].removesuffix(".json")
        if name.isascii() and name.isdigit() and int(name) <= MAX_EPOCH:
            return int(name)
        if key not in self.reported:
            self.reported.add(key)
            expected = f"expected the claim of an epoch, named by a number up to {MAX_EPOCH:,}"
            log.warning("%s: %s: ignored; %s", self.store.url, key, expected)
        return 0


@dataclass(frozen=True, kw_only=True)
class EpochGuard:
    """Refuses the writes of a driver whose run was taken over. Asked right before each of them."""

    epochs: RunEpochs
    epoch: int

    def check(self) -> None:
        """One listing of the store. Raises: LeaseLostError: a newer epoch is claimed."""
        newest = self.epochs.newest()
        if newest > self.epoch:
            raise LeaseLostError(
                f"run {self.epochs.run_id}: this driver has epoch {self.epoch}, but epoch {newest} has taken over; "
                f"it changes nothing more. Watch the run with `illume status {self.epochs.run_id}`"
            )
