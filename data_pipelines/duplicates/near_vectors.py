"""Finds all pairs of near vectors; cells of space exclude most pairs without a comparison.

Each sample belongs to the cell of its nearest centre. If x in the cell of a, and y in the cell of b, are at most r
apart, then x lies at most r beyond the plane between a and b,

    (|x - b|² - |x - a|²) / 2  <=  r |a - b|        as the left side is linear in x, and at most 0 for y,

and only such x are compared with the cell of b. No pair is left out, wherever the centres are. faiss finds all pairs
only by comparing each with each, which takes four times as long for 30,000 samples of 512 numbers; its quicker indexes
miss some. Tests compare with it.

Legend: N samples, B of them, S vectors of each of width D, F = S D, K cells, G of them.
"""

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # samples compared with as many others at once: 16 MB of cosines
CELLS_AT_ONCE = 64  # whose neighbours are searched for at once
SAMPLES_PER_CELL = 32  # on average, of those that k-means moves the centres by
KMEANS_ROUNDS = 4
SLACK = 1e-3  # far more than the rounding errors of 32 bits

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float16]
Array = TypeVar("Array", Integers, Vectors)


def near_pairs(vectors_NSD: Vectors, distance: float) -> Iterator[tuple[Integers, Integers]]:
    """Indices of all pairs whose vectors, slot by slot, are less than `distance` of cosine apart; each pair once.

    Yields two arrays at a time, the indices of the pairs' earlier and later members in the order of cells.
    """
    num_cells = math.isqrt(len(vectors_NSD)) if len(vectors_NSD) > BLOCK else 1
    centres_KF = cell_centres(vectors_NSD, num_cells)
    cells_N = np.concatenate(
        [centre_scores(points(block_BSD), centres_KF).argmax(axis=1) for block_BSD in blocks(vectors_NSD)]
    )
    order = np.argsort(cells_N, kind="stable")
    bounds = np.searchsorted(cells_N[order], np.arange(num_cells + 1))
    for first in range(0, num_cells, CELLS_AT_ONCE):
        cells = range(first, min(first + CELLS_AT_ONCE, num_cells))
        before = order[: bounds[cells.stop]]
        is_near_NG = _may_be_near(vectors_NSD, before, cells_N, centres_KF, cells, math.sqrt(2 * distance))
        for column, cell in enumerate(cells):
            start, stop = bounds[cell], bounds[cell + 1]
            candidates = np.append(np.flatnonzero(is_near_NG[:start, column]), np.arange(start, stop))
            for left, right in compare(vectors_NSD, order[candidates], order[start:stop], 1 - distance):
                is_earlier = candidates[left] < right + start  # within the cell, each pair is found twice
                yield order[candidates[left[is_earlier]]], order[right[is_earlier] + start]


def cell_centres(vectors_NSD: Vectors, num_cells: int) -> Floats:
    """The centres of so many cells, by some rounds of k-means over a part of the samples [K, F]."""
    chosen = np.random.default_rng(0).permutation(len(vectors_NSD))[: SAMPLES_PER_CELL * num_cells]
    points_BF = points(vectors_NSD[chosen])
    centres_KF = points_BF[:num_cells].copy()
    for _ in range(KMEANS_ROUNDS if num_cells > 1 else 0):
        cells_B = centre_scores(points_BF, centres_KF).argmax(axis=1)
        order = np.argsort(cells_B, kind="stable")
        found, starts, counts = np.unique(cells_B[order], return_index=True, return_counts=True)
        centres_KF[found] = np.add.reduceat(points_BF[order], starts) / counts[:, None]
    return centres_KF


def _may_be_near(
    vectors_NSD: Vectors, samples: Integers, cells_N: Integers, centres_KF: Floats, cells: range, radius: float
) -> Bools:
    """For each of `samples` and each of `cells`: whether a near sample may lie in the cell [len(samples), G]."""
    cell_centres_GF = centres_KF[cells.start : cells.stop]
    apart_KG = np.stack([np.linalg.norm(centres_KF - centre_F, axis=1) for centre_F in cell_centres_GF], axis=1)
    found = []
    for block in blocks(samples):
        points_BF, cells_B = points(vectors_NSD[block]), cells_N[block]
        own_BF = centres_KF[cells_B]
        own_B = (points_BF * own_BF).sum(axis=1) - (own_BF**2).sum(axis=1) / 2
        found.append(own_B[:, None] - centre_scores(points_BF, cell_centres_GF) <= radius * apart_KG[cells_B] + SLACK)
    return np.concatenate(found) if found else np.zeros((0, len(cells)), dtype=np.bool_)


def centre_scores(points_BF: Floats, centres_KF: Floats) -> Floats:
    """(|x|² - |x - c|²) / 2, larger for nearer centres c [B, K]."""
    scores_BK: Floats = points_BF @ centres_KF.T - (centres_KF**2).sum(axis=1) / 2
    return scores_BK


def compare(
    vectors_NSD: Vectors, left: Integers, right: Integers, cosine: float
) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of positions in `left` and `right` whose samples' vectors all have a cosine above `cosine`."""
    for right_block, right_samples in enumerate(blocks(right)):
        right_BSD = _unit(vectors_NSD[right_samples])
        for left_block, left_samples in enumerate(blocks(left)):
            left_BSD = _unit(vectors_NSD[left_samples])
            near = np.ones((len(left_BSD), len(right_BSD)), dtype=np.bool_)
            for slot in range(vectors_NSD.shape[1]):
                near &= left_BSD[:, slot] @ right_BSD[:, slot].T > cosine
            left_found, right_found = np.nonzero(near)
            yield left_found + left_block * BLOCK, right_found + right_block * BLOCK


def blocks(array: Array) -> Iterator[Array]:
    return (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))


def points(vectors_BSD: Vectors) -> Floats:
    """Each sample's vectors as one of length 1 [B, F]: half a squared distance is then 1 - the mean of the cosines."""
    num_slots = vectors_BSD.shape[1]
    return _unit(vectors_BSD).reshape(len(vectors_BSD), -1) / np.float32(math.sqrt(num_slots))


def _unit(vectors_BSD: Vectors) -> Floats:
    """The vectors normalised to length 1 again, as 16 bits have rounded them."""
    wide_BSD = vectors_BSD.astype(np.float32)
    return wide_BSD / np.maximum(np.linalg.norm(wide_BSD, axis=-1, keepdims=True), np.float32(1e-12))
