"""Seeded permutations computed in both directions, position <-> index, without storing anything.

The order of an epoch depends on dataset, seed and epoch only; when a sample was trained is computed, not logged.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

NUM_ROUNDS = 8  # of the Feistel network; four already pass our tests of uniformity


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A permutation of 0 .. size-1, selected by `key` (any text).

    A Feistel network over pairs (a, b) of a square that is just larger than `size`; values outside are mapped again
    (cycle walking) until they fall inside (needed for at most about 2/sqrt(size) of them).
    """

    size: int
    key: str

    def __post_init__(self) -> None:
        if not 0 < self.size < 2**62:
            raise ValueError(f"permutation of {self.size} items: expected 1 to 2^62")

    def index_at(self, positions: npt.ArrayLike) -> Integers:
        """The item at each position. Raises: IndexError outside 0 .. size-1."""
        return self._walk(positions, self._forward)

    def position_of(self, indices: npt.ArrayLike) -> Integers:
        """The position of each item. Raises: IndexError outside 0 .. size-1."""
        return self._walk(indices, self._backward)

    @cached_property
    def _side(self) -> int:
        return math.isqrt(self.size - 1) + 1

    @cached_property
    def _round_keys(self) -> Words:
        digest = hashlib.shake_256(self.key.encode()).digest(8 * NUM_ROUNDS)
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def _walk(self, values: npt.ArrayLike, step: Callable[[Integers], Integers]) -> Integers:
        start = np.asarray(values, dtype=np.int64).reshape(-1)
        if start.size and (start.min() < 0 or start.max() >= self.size):
            raise IndexError(f"{start.min()} to {start.max()} in a permutation of {self.size} items")
        mapped = step(start)
        outside = np.flatnonzero(mapped >= self.size)
        while outside.size:
            mapped[outside] = step(mapped[outside])
            outside = outside[mapped[outside] >= self.size]
        return mapped.reshape(np.shape(values))

    def _forward(self, values: Integers) -> Integers:
        left, right = values // self._side, values % self._side
        for key in self._round_keys:
            left, right = right, (left + self._noise(right, key)) % self._side
        return left * self._side + right

    def _backward(self, values: Integers) -> Integers:
        left, right = values // self._side, values % self._side
        for key in self._round_keys[::-1]:
            left, right = (right - self._noise(left, key)) % self._side, left
        return left * self._side + right

    def _noise(self, values: Integers, key: np.uint64) -> Integers:
        return (mix(values.astype(np.uint64) ^ key) % np.uint64(self._side)).astype(np.int64)


def mix(words: Words) -> Words:
    """Hashes 64-bit words, a bijection. Source: finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def epoch_permutation(size: int, *, dataset_digest: str, seed: int, epoch: int) -> Permutation:
    """The order of the samples of a dataset in one epoch."""
    return Permutation(size=size, key=f"order\n{dataset_digest}\n{seed}\n{epoch}")


def sample_words(sample_ids: npt.NDArray[np.uint8]) -> Words:
    """The first 64 bits of each id; ids are bytes [N, 32]."""
    return np.ascontiguousarray(sample_ids[:, :8]).view(">u8").astype(np.uint64).reshape(-1)


def is_chosen(words: Words, *, share: float, seed: int, epochs: npt.ArrayLike, purpose: str) -> npt.NDArray[np.bool_]:
    """For each sample, given by its 64-bit word, whether it belongs to the random `share` that is chosen in its epoch.

    Depends on sample, seed, epoch and purpose only, not on order, rank or batch.
    """
    digest = hashlib.sha256(f"{purpose}\n{seed}".encode()).digest()
    key = np.uint64(int.from_bytes(digest[:8], "big"))
    with np.errstate(over="ignore"):
        noise = mix(words ^ mix(np.asarray(epochs, dtype=np.uint64) + key))
    return (noise >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share
