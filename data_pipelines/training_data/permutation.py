"""The order in which samples are seen, as arithmetic: seeded permutations that can be computed both ways.

A position of an epoch becomes an index and back without storing anything, so "when was this sample seen" is a
computation, and the order depends on nothing but the data set, the seed and the epoch.
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

NUM_ROUNDS = 8  # of the Feistel network; four already pass the tests of uniformity here


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A bijection of 0 .. size-1, chosen by `key` (any text).

    A Feistel network over pairs (a, b) of a square that is just larger than `size`; values outside walk on along
    their cycle until they come back in (at most about 2/sqrt(size) of them have to).
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
        start = np.atleast_1d(np.asarray(values, dtype=np.int64))
        if start.size and (start.min() < 0 or start.max() >= self.size):
            raise IndexError(f"{start.min()} to {start.max()} in a permutation of {self.size} items")
        found = step(start)
        outside = np.flatnonzero(found >= self.size)
        while outside.size:
            found[outside] = step(found[outside])
            outside = outside[found[outside] >= self.size]
        return found.reshape(np.shape(values))

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
    """Well-mixed 64-bit words, a bijection. Source: finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def epoch_permutation(size: int, *, dataset_digest: str, seed: int, epoch: int) -> Permutation:
    """The order of one epoch over a data set."""
    return Permutation(size=size, key=f"order\n{dataset_digest}\n{seed}\n{epoch}")


def sample_words(sample_ids: npt.NDArray[np.uint8]) -> Words:
    """The first 64 bits of ids given as bytes [N, 32]."""
    return np.ascontiguousarray(sample_ids[:, :8]).view(">u8").astype(np.uint64).reshape(-1)


def is_chosen(words: Words, *, share: float, seed: int, epochs: npt.ArrayLike, purpose: str) -> npt.NDArray[np.bool_]:
    """For each sample (its 64-bit word), whether it belongs to the `share` that is chosen in its epoch.

    Depends on nothing but sample, seed, epoch and purpose: not on order, rank or batch.
    """
    digest = hashlib.sha256(f"{purpose}\n{seed}".encode()).digest()
    key = np.uint64(int.from_bytes(digest[:8], "big"))
    with np.errstate(over="ignore"):
        noise = mix(words ^ mix(np.asarray(epochs, dtype=np.uint64) + key))
    return (noise >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share
