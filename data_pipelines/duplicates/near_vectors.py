"""Finds all pairs of near vectors; most vectors are told apart by the cells of space in which they lie.

Each sample belongs to the cell of the nearest of some centres. If x in the cell of a, and y in that of b, are at most r
apart, then x lies at most r beyond the plane between a and b,

    (|x - b|² - |x - a|²) / 2  <=  r |a - b|        as the left side is linear in x, and at most 0 for y,

and only such x are compared with the cell of b. No pair is left out, wherever the centres are.

Legend: N samples, B of them, S vectors of each of width D, F = S D, K cells, G of them.
"""

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # samples compared with as many others in one go: 16 MB of cosines
CELLS_AT_ONCE = 64  # whose neighbours are looked for in one go
CHOSEN = 32  # samples of each cell, on average, that move the centres
MOVES = 4
SLACK = 1e-3  # far more than what 32 bits lose

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float16]
Some = TypeVar("Some", Integers, Vectors)


def near_pairs(vectors_NSD: Vectors, distance: float) -> Iterator[tuple[Integers, Integers]]:
    """Places of all pairs whose vectors, slot by slot, are less than `distance` of cosine apart; each pair once."""
    num_cells = math.isqrt(len(vectors_NSD)) if len(vectors_NSD) > BLOCK else 1
    centres_KF = _centres(vectors_NSD, num_cells)
    cells_N = np.concatenate(
        [_scores(_points(block_BSD), centres_KF).argmax(axis=1) for block_BSD in _blocks(vectors_NSD)]
    )
    order = np.argsort(cells_N, kind="stable")
    bounds = np.searchsorted(cells_N[order], np.arange(num_cells + 1))
    for first in range(0, num_cells, CELLS_AT_ONCE):
        cells = range(first, min(first + CELLS_AT_ONCE, num_cells))
        before = order[: bounds[cells.stop]]
        beside_NG = _beside(vectors_NSD, before, cells_N, centres_KF, cells, math.sqrt(2 * distance))
        for place, cell in enumerate(cells):
            start, stop = bounds[cell], bounds[cell + 1]
            others = np.append(np.flatnonzero(beside_NG[:start, place]), np.arange(start, stop))
            for ones, twos in _compared(vectors_NSD, order[others], order[start:stop], 1 - distance):
                earlier = others[ones] < twos + start  # of two in this cell, each pair is found twice
                yield order[others[ones[earlier]]], order[twos[earlier] + start]


def _centres(vectors_NSD: Vectors, num_cells: int) -> Floats:
    """The centres of so many cells, by some rounds of k-means over a part of the samples [K, F]."""
    chosen = np.random.default_rng(0).permutation(len(vectors_NSD))[: CHOSEN * num_cells]
    points_BF = _points(vectors_NSD[chosen])
    centres_KF = points_BF[:num_cells].copy()
    for _ in range(MOVES if num_cells > 1 else 0):
        cells_B = _scores(points_BF, centres_KF).argmax(axis=1)
        order = np.argsort(cells_B, kind="stable")
        found, starts, counts = np.unique(cells_B[order], return_index=True, return_counts=True)
        centres_KF[found] = np.add.reduceat(points_BF[order], starts) / counts[:, None]
    return centres_KF


def _beside(
    vectors_NSD: Vectors, places: Integers, cells_N: Integers, centres_KF: Floats, cells: range, radius: float
) -> Bools:
    """For each of `places` and each of `cells`: whether something near the sample may lie in it [len(places), G]."""
    some_GF = centres_KF[cells.start : cells.stop]
    apart_KG = np.stack([np.linalg.norm(centres_KF - centre_F, axis=1) for centre_F in some_GF], axis=1)
    found = []
    for chosen in _blocks(places):
        points_BF, cells_B = _points(vectors_NSD[chosen]), cells_N[chosen]
        own_BF = centres_KF[cells_B]
        own_B = (points_BF * own_BF).sum(axis=1) - (own_BF**2).sum(axis=1) / 2
        found.append(own_B[:, None] - _scores(points_BF, some_GF) <= radius * apart_KG[cells_B] + SLACK)
    return np.concatenate(found) if found else np.zeros((0, len(cells)), dtype=np.bool_)


def _scores(points_BF: Floats, centres_KF: Floats) -> Floats:
    """(|x|² - |x - c|²) / 2, larger for nearer centres c [B, K]."""
    scores_BK: Floats = points_BF @ centres_KF.T - (centres_KF**2).sum(axis=1) / 2
    return scores_BK


def _compared(
    vectors_NSD: Vectors, ones: Integers, others: Integers, cosine: float
) -> Iterator[tuple[Integers, Integers]]:
    """Which of the samples at `ones` and which at `others` have vectors that all have a larger cosine."""
    for second, other_places in enumerate(_blocks(others)):
        others_BSD = _unit(vectors_NSD[other_places])
        for first, places in enumerate(_blocks(ones)):
            ones_BSD = _unit(vectors_NSD[places])
            near = np.ones((len(ones_BSD), len(others_BSD)), dtype=np.bool_)
            for slot in range(vectors_NSD.shape[1]):
                near &= ones_BSD[:, slot] @ others_BSD[:, slot].T > cosine
            found, beside = np.nonzero(near)
            yield found + first * BLOCK, beside + second * BLOCK


def _blocks(array: Some) -> Iterator[Some]:
    return (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))


def _points(vectors_BSD: Vectors) -> Floats:
    """All vectors of a sample as one of length 1 [B, F], so that half a squared distance is 1 - the mean of cosines."""
    num_slots = vectors_BSD.shape[1]
    return _unit(vectors_BSD).reshape(len(vectors_BSD), -1) / np.float32(math.sqrt(num_slots))


def _unit(vectors_BSD: Vectors) -> Floats:
    """Each of length 1 once more: 16 bits have rounded them."""
    wide_BSD = vectors_BSD.astype(np.float32)
    return wide_BSD / np.maximum(np.linalg.norm(wide_BSD, axis=-1, keepdims=True), np.float32(1e-12))
