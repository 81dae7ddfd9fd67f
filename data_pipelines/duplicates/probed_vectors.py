"""Finds most pairs of near vectors in near-linear time: each sample is compared with its nearest cells only.

An exact search (`near_vectors.py`) must compare all cells that may hold a near vector, which in hundreds of dimensions
are most of them, so its time grows close to the square. Near vectors mostly share their nearest cells: with a few of
them the time grows with the power 1.5 of the number of samples, and some pairs are missed. The share that is found is
measured by `tests/benchmarks/bench_vectors.py`; a pair that is found is always near.

Legend: N samples, B of them, S vectors of each of width D, F = S D, K cells, P of them probed by each sample.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_pipelines.duplicates.near_vectors import (
    BLOCK,
    Floats,
    Integers,
    Vectors,
    blocks,
    cell_centres,
    centre_scores,
    compare,
    points,
)

CELLS_PER_ROOT = 2  # cells for each square root of the number of samples: finding cells then costs as comparing does


def probed_pairs(vectors_NSD: Vectors, distance: float, probes: int) -> Iterator[tuple[Integers, Integers]]:
    """Indices of pairs whose vectors, slot by slot, are less than `distance` of cosine apart; each pair once.

    `probes`: cells that each sample is compared with; more find more pairs.
    """
    num_cells = CELLS_PER_ROOT * math.isqrt(len(vectors_NSD)) if len(vectors_NSD) > BLOCK else 1
    centres_KF = cell_centres(vectors_NSD, num_cells)
    probed_NP = np.concatenate(
        [_nearest(points(block_BSD), centres_KF, min(probes, num_cells)) for block_BSD in blocks(vectors_NSD)]
    )
    own_N = probed_NP[:, 0]
    members, member_bounds = _by_cell(own_N, num_cells)
    visits, visit_bounds = _by_cell(probed_NP.reshape(-1), num_cells)
    for cell in range(num_cells):
        at_home = members[member_bounds[cell] : member_bounds[cell + 1]]
        visitors = visits[visit_bounds[cell] : visit_bounds[cell + 1]] // probed_NP.shape[1]
        for left, right in compare(vectors_NSD, visitors, at_home, 1 - distance):
            visitor, member = visitors[left], at_home[right]
            cell_of_visitor = own_N[visitor]
            is_mutual = (probed_NP[member] == cell_of_visitor[:, None]).any(axis=1)  # found in the other cell too
            is_first = np.where(cell_of_visitor == cell, visitor < member, ~is_mutual | (cell < cell_of_visitor))
            yield visitor[is_first], member[is_first]


def _nearest(points_BF: Floats, centres_KF: Floats, probes: int) -> npt.NDArray[np.int32]:
    """The cells of the nearest centres of each sample, the nearest first [B, P]."""
    scores_BK = centre_scores(points_BF, centres_KF)
    chosen_BP = np.argpartition(-scores_BK, probes - 1, axis=1)[:, :probes]
    order_BP = np.argsort(-np.take_along_axis(scores_BK, chosen_BP, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen_BP, order_BP, axis=1).astype(np.int32)


def _by_cell(cells: npt.NDArray[np.int32], num_cells: int) -> tuple[Integers, Integers]:
    """Positions in the order of their cells, and the bounds of each cell among them."""
    order = np.argsort(cells, kind="stable")
    return order, np.searchsorted(cells[order], np.arange(num_cells + 1))
