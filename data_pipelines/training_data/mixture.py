"""Several datasets mixed into one endless stream, by arithmetic: position -> (dataset, epoch, index) and back.

The stream repeats a fixed pattern in which each source is spread evenly, so any stretch has the stated proportions.
Within its turns every source runs through its own permuted epochs, with each sample exactly once per epoch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.permutation import Integers, Permutation, epoch_permutation

MAX_PATTERN = 65_536  # positions; weights that need a longer pattern are rounded to 1/65,536


@dataclass(frozen=True, kw_only=True)
class Source:
    """A part of a mixture: `size` samples of a dataset, identified by `digest` (of dataset and filter)."""

    size: int
    weight: float
    digest: str


@dataclass(frozen=True, kw_only=True)
class SampleLocations:
    """Source, epoch and index of the samples at some positions; arrays of equal length."""

    sources: Integers
    epochs: Integers
    indices: Integers  # within the source


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """An endless stream over sources. Raises: ValueError for no source, an empty one, or no positive weight."""

    sources: tuple[Source, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("mixture: no source; name at least one dataset")
        for number, source in enumerate(self.sources):
            if source.size < 1:
                raise ValueError(f"mixture: source {number} has no samples; check its split and tasks, or leave it out")
            if not (math.isfinite(source.weight) and source.weight > 0):
                raise ValueError(f"mixture: source {number} has weight {source.weight}; expected a positive number")

    def locate(self, positions: npt.ArrayLike) -> SampleLocations:
        """The sample at each position (0 or more)."""
        wanted = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        if wanted.size and wanted.min() < 0:
            raise IndexError(f"position {wanted.min()} of a mixture; positions begin at 0")
        cycles, offsets = np.divmod(wanted, len(self._pattern))
        sources = self._pattern[offsets]
        ordinals = cycles * self._counts[sources] + self._ranks[offsets]
        epochs, within = np.divmod(ordinals, self._sizes[sources])
        indices = np.empty_like(within)
        for source, epoch, chosen in _groups(sources, epochs):
            indices[chosen] = self.permutation(source, epoch).index_at(within[chosen])
        return SampleLocations(sources=sources, epochs=epochs, indices=indices)

    def position_of(self, samples: SampleLocations) -> Integers:
        """The position of each (source, epoch, index); there is exactly one."""
        within = np.empty_like(samples.indices)
        for source, epoch, chosen in _groups(samples.sources, samples.epochs):
            within[chosen] = self.permutation(source, epoch).position_of(samples.indices[chosen])
        ordinals = samples.epochs * self._sizes[samples.sources] + within
        cycles, ranks = np.divmod(ordinals, self._counts[samples.sources])
        return cycles * len(self._pattern) + self._offsets[self._starts[samples.sources] + ranks]

    def permutation(self, source: int, epoch: int) -> Permutation:
        chosen = self.sources[source]
        return epoch_permutation(chosen.size, dataset_digest=chosen.digest, seed=self.seed, epoch=epoch)

    def epochs(self, position: int) -> list[float]:
        """How often the samples of each source have been seen before `position`, on average."""
        cycles, offset = divmod(position, len(self._pattern))
        seen = [
            cycles * int(self._counts[number]) + int((self._pattern[:offset] == number).sum())
            for number in range(len(self.sources))
        ]
        return [count / source.size for count, source in zip(seen, self.sources, strict=True)]

    def epochs_before(self, source: int, position: int) -> int:
        """The number of epochs of a source that begin before `position`."""
        cycles, offset = divmod(position, len(self._pattern))
        seen = cycles * int(self._counts[source]) + int((self._pattern[:offset] == source).sum())
        return -(-seen // self.sources[source].size)

    @cached_property
    def _sizes(self) -> Integers:
        return np.array([source.size for source in self.sources], dtype=np.int64)

    @cached_property
    def _counts(self) -> Integers:
        return np.array(pattern_counts([source.weight for source in self.sources]), dtype=np.int64)

    @cached_property
    def _pattern(self) -> Integers:
        """The source of each position of one cycle: the k-th turn of a source is due at (k + 1/2) / its count."""
        sources = np.repeat(np.arange(len(self.sources)), self._counts)
        turns = np.arange(len(sources)) - self._starts[sources]
        due = (turns + 0.5) / self._counts[sources]
        return sources[np.lexsort((sources, due))].astype(np.int64)

    @cached_property
    def _starts(self) -> Integers:
        return np.concatenate([[0], np.cumsum(self._counts)[:-1]]).astype(np.int64)

    @cached_property
    def _offsets(self) -> Integers:
        """Positions within a cycle, sorted by source: the k-th turn of source s is at [starts[s] + k]."""
        return np.argsort(self._pattern, kind="stable").astype(np.int64)

    @cached_property
    def _ranks(self) -> Integers:
        """For each position of a cycle, the number of earlier turns of its source."""
        ranks = np.empty(len(self._pattern), dtype=np.int64)
        ranks[self._offsets] = np.arange(len(self._pattern)) - np.repeat(self._starts, self._counts)
        return ranks


def pattern_counts(weights: Sequence[float]) -> list[int]:
    """Turns of each source in one cycle, at least one each; exactly as the weights if a short enough pattern exists."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*counts)
    counts = [count // divisor for count in counts]
    if sum(counts) <= MAX_PATTERN:
        return counts
    total = sum(exact)
    shares = [weight / total * MAX_PATTERN for weight in exact]
    counts = [max(1, math.floor(share)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: (math.floor(shares[n]) - shares[n], n))
    for number in by_remainder[: max(0, MAX_PATTERN - sum(counts))]:
        counts[number] += 1
    return counts


def _groups(sources: Integers, epochs: Integers) -> list[tuple[int, int, Integers]]:
    """(source, epoch, indices of the samples with both)."""
    if not len(sources):
        return []
    if (sources == sources[0]).all() and (epochs == epochs[0]).all():  # the usual case: no need to sort
        return [(int(sources[0]), int(epochs[0]), np.arange(len(sources)))]
    order = np.lexsort((epochs, sources))
    changes = (np.diff(sources[order]) != 0) | (np.diff(epochs[order]) != 0)
    parts = np.split(order, np.flatnonzero(changes) + 1)
    return [(int(sources[part[0]]), int(epochs[part[0]]), part) for part in parts]
