"""Loss and metrics of one step, summed over its micro-batches, and the micro-batches that made them non-finite.

Values stay on their device until the step is over, and are then moved once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from stages.training.program import MicroBatch, PassOutput, Sum

MAX_SAMPLES = 32  # named of one micro-batch
SOURCE_LOSS = "loss_of/"  # begins the names of the metrics of sources


@dataclass(frozen=True, kw_only=True)
class SampleLosses:
    """The losses of a sample, or of a micro-batch whose pass returns one number."""

    micro_batch: int  # of the step
    samples: tuple[str, ...]
    losses: Mapping[str, float]  # mean by kind; a kind that the sample has nothing of is left out
    source: str = ""


@dataclass
class StepSums:
    """The sums of one pass over this worker's micro-batches of one step, each counted from 0 over all workers."""

    sources: tuple[str, ...] = ()  # of the data; the loss of each is a metric if the pass tells the samples apart
    names: tuple[str, ...] = ()  # of the metrics, sorted; the same for every micro-batch of a pass
    kinds: tuple[str, ...] = ()  # of the losses of a sample
    _indices: list[int] = field(default_factory=list)
    _values: list[torch.Tensor] = field(default_factory=list)  # float64 [metrics, 2] each: sum, weight
    _samples: list[torch.Tensor | None] = field(default_factory=list)  # [kinds, samples, 2] each
    _moved: torch.Tensor | None = None

    def add(self, index: int, micro_batch: MicroBatch, output: PassOutput) -> None:
        """Add what the pass returned for micro-batch `index` of the step."""
        sums: Mapping[str, Sum] = {
            "loss": Sum(output.loss_sum, micro_batch.weight),
            **output.metrics,
            **self._of_sources(micro_batch, output.sample_sums),
        }
        self.kinds = output.kinds
        self.names = tuple(sorted(sums))
        device = output.loss_sum.device
        numbers = [_on_device(number, device) for name in self.names for number in sums[name]]
        self._indices.append(index)
        self._values.append(torch.stack(numbers).view(-1, 2))
        self._samples.append(output.sample_sums)

    def _of_sources(self, micro_batch: MicroBatch, sample_sums: torch.Tensor | None) -> dict[str, Sum]:
        if sample_sums is None or not self.sources:
            return {}
        sums = sample_sums.detach().sum(0)
        of_samples = torch.tensor(micro_batch.sources, dtype=torch.int64, device=sums.device)
        by_source = sums.new_zeros(len(self.sources), 2).index_add_(0, of_samples, sums)
        return {
            f"{SOURCE_LOSS}{name}": Sum(value, weight)
            for name, (value, weight) in zip(self.sources, by_source, strict=True)
        }

    def sample_losses(self, micro_batches: Sequence[MicroBatch]) -> list["SampleLosses"]:
        """The mean losses of each sample, by kind; of each micro-batch as a whole where its pass tells none apart."""
        loss, found = self.names.index("loss"), []
        for index, values, micro_batch, samples in zip(
            self._indices, self._by_micro_batch(), micro_batches, self._samples, strict=True
        ):
            if samples is None or not micro_batch.samples:
                mean = float(values[loss, 0]) / (float(values[loss, 1]) or 1.0)
                found.append(SampleLosses(micro_batch=index, samples=micro_batch.samples, losses={"loss": mean}))
                continue
            for number, (name, sums) in enumerate(zip(micro_batch.samples, samples.cpu().unbind(1), strict=True)):
                pairs = zip(self.kinds, sums.tolist(), strict=True)
                losses = {kind: value / weight for kind, (value, weight) in pairs if weight}
                source = self.sources[micro_batch.sources[number]] if micro_batch.sources and self.sources else ""
                found.append(SampleLosses(micro_batch=index, samples=(name,), losses=losses, source=source))
        return found

    def total(self) -> torch.Tensor:
        """float64 [metrics, 2] on the host: sum and weight of each metric, in the order of `names`."""
        total = torch.zeros(len(self.names), 2, dtype=torch.float64)
        for values in self._by_micro_batch():
            total += values
        return total

    def non_finite(self, rank: int, micro_batches: Sequence[MicroBatch]) -> list[str]:
        """A line for each micro-batch with a non-finite loss: worker, micro-batch, its means, its samples."""
        lines = []
        loss = self.names.index("loss") if self.names else 0
        for index, values, micro_batch in zip(self._indices, self._by_micro_batch(), micro_batches, strict=True):
            if math.isfinite(float(values[loss, 0])):
                continue
            means = ", ".join(
                f"{name} {float(value / weight):.4g}"
                for name, (value, weight) in zip(self.names, values, strict=True)
                if weight
            )
            shown = ", ".join(micro_batch.samples[:MAX_SAMPLES]) or "not named"
            more = len(micro_batch.samples) - MAX_SAMPLES
            lines.append(
                f"worker {rank}, micro-batch {index}: {means or 'no weight'}; samples {shown}"
                + (f" and {more} more" if more > 0 else "")
            )
        return lines

    def _by_micro_batch(self) -> torch.Tensor:
        """float64 [micro-batches, metrics, 2] on the host."""
        if self._moved is None or len(self._moved) != len(self._values):
            self._moved = torch.stack(self._values).cpu() if self._values else torch.zeros(0, len(self.names), 2)
        return self._moved


def _on_device(number: torch.Tensor | float, device: torch.device) -> torch.Tensor:
    """A float64 scalar; a number is filled in there, as its copy from the host would wait for the device."""
    if isinstance(number, torch.Tensor):
        return number.detach().to(device).double()
    return torch.full((), number, dtype=torch.float64, device=device)
