"""Finite spikes of a loss or gradient norm: found against what is usual, and described while the step is at hand.

All workers see the same loss and norm, so all decide alike, and all take part in the description.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import NumericError
from stages.training.agreement import WorkerRank, gather_texts
from stages.training.program import MicroBatch, TrainingProgram, originals_of
from stages.training.step_sums import StepSums
from stages.training.watching.notices import SPIKE, SPIKE_FILE, Notice, Notify
from stages.training.watching.spike_report import FORMAT

MAX_SAMPLES = 64  # described, those with the highest losses
SHOWN_ORIGINALS = 8  # samples whose stored files are kept
MAX_ORIGINAL_BYTES = 4 * 2**20  # of one of these files


class SpikeError(NumericError):
    """A finite spike, after which the data are skipped."""


@dataclass(frozen=True, kw_only=True)
class SpikedStep:
    """A step whose loss or gradient norm is far above what is usual."""

    step: int
    data_step: int
    pass_name: str
    loss: float
    grad_norm: float
    loss_z: float
    grad_norm_z: float
    learning_rates: tuple[float, ...]
    gradient_norms: Mapping[str, float]  # by part of the model

    def __str__(self) -> str:
        return (
            f"step {self.step}, pass {self.pass_name}: a spike: loss {self.loss:.4g} (z {self.loss_z:.1f}), gradient "
            f"norm {self.grad_norm:.4g} (z {self.grad_norm_z:.1f})"
        )


def describe_spike(
    spike: SpikedStep,
    sums: StepSums,
    micro_batches: Sequence[MicroBatch],
    *,
    program: TrainingProgram,
    worker: WorkerRank,
    notify: Notify,
) -> None:
    """Tell the driver which samples the step held, their losses by kind, and show those with the highest ones.

    Called by all workers at once.
    """
    is_first = worker.rank % worker.sequence_workers == 0  # the others have the same losses of the same samples
    own = [{**asdict(found), "worker": worker.rank} for found in sums.sample_losses(micro_batches) if is_first]
    of_all = [found for text in gather_texts(json.dumps(own), worker) for found in json.loads(text)]
    worst = sorted(of_all, key=_highest_loss, reverse=True)[:MAX_SAMPLES]
    if worker.rank == 0:
        fields = {
            "format": FORMAT,
            **asdict(spike),
            "message": str(spike),
            "num_samples": sum(max(1, len(found["samples"])) for found in of_all),
            "samples": worst,
        }
        notify(Notice(kind=SPIKE, fields=fields))
    for index, samples in _shown_by(worst, worker.rank).items():
        for name, content in originals_of(program, spike.data_step, index, samples):
            if len(content) <= MAX_ORIGINAL_BYTES:
                notify(Notice(kind=SPIKE_FILE, fields={"step": spike.step, "name": name}, content=content))


def _highest_loss(found: Mapping[str, Any]) -> float:
    return max(found["losses"].values(), default=0.0)


def _shown_by(worst: Sequence[Mapping[str, Any]], rank: int) -> dict[int, set[str]]:
    """micro-batch -> samples whose files this worker reads."""
    shown: dict[int, set[str]] = {}
    num_shown = 0
    for found in worst:
        for name in found["samples"][: SHOWN_ORIGINALS - num_shown]:
            num_shown += 1
            if found["worker"] == rank:
                shown.setdefault(found["micro_batch"], set()).add(name)
    return shown
