"""Finds samples whose pictures mean the same to a model, by products of blocks of their embeddings.

Legend: N samples, S pictures of a sample, D width of an embedding.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.candidates import Candidates
from data_pipelines.duplicates import Copy, towards_kept
from data_pipelines.score_tables import Vectors

BLOCK = 2048  # samples compared with as many others in one go: 16 MB of cosines

Integers = npt.NDArray[np.int64]


def add_semantic_copies(
    candidates: Candidates,
    copies: Sequence[Copy],
    embeddings: Sequence[Sequence[Vectors] | None],
    distance: float,
) -> list[Copy]:
    """`copies` and those that only mean the same, in order.

    Of samples of one partition with as many pictures those are grouped whose pictures, slot by slot, are less than
    `distance` of cosine apart, also through others between them; the first of a group is kept. `embeddings`: of the
    pictures of each candidate, None: not known. The work grows with the square of the largest partition.
    """
    repeated = {copy.index for copy in copies}
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, vectors in enumerate(embeddings):
        if vectors and index not in repeated and len(vectors) == candidates.num_pictures[index]:
            alike[int(candidates.salts[index]), len(vectors)].append(index)
    found = []
    for indices in alike.values():
        if len(indices) > 1:
            vectors_NSD = np.stack([np.stack(list(embeddings[index] or ())) for index in indices])
            firsts = group_by_meaning(vectors_NSD, distance)
            for place in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
                original = indices[int(firsts[place])]
                found.append(
                    Copy(index=indices[place], original=original, verdict="near_duplicate", reason="similar_meaning")
                )
    return towards_kept([*copies, *found])


def group_by_meaning(vectors_NSD: Vectors, distance: float) -> Integers:
    """For each sample the first of its group [N]."""
    groups = _Groups(len(vectors_NSD))
    for ones, others in _near_pairs(vectors_NSD, 1 - distance):
        groups.join(ones, others)
    return groups.firsts(np.arange(len(vectors_NSD)))


def _near_pairs(vectors_NSD: Vectors, cosine: float) -> Iterator[tuple[Integers, Integers]]:
    """Places of pairs whose pictures all have a larger cosine, block by block; each pair once."""
    starts = range(0, len(vectors_NSD), BLOCK)
    for first in starts:
        block_NSD = _unit(vectors_NSD[first : first + BLOCK])
        for second in starts[first // BLOCK :]:
            others_NSD = block_NSD if second == first else _unit(vectors_NSD[second : second + BLOCK])
            near = np.ones((len(block_NSD), len(others_NSD)), dtype=bool)
            for slot in range(vectors_NSD.shape[1]):
                near &= block_NSD[:, slot] @ others_NSD[:, slot].T > cosine
            ones, others = np.nonzero(np.triu(near, 1) if second == first else near)
            if len(ones):
                yield ones + first, others + second


def _unit(vectors_NSD: Vectors) -> npt.NDArray[np.float32]:
    """Of length 1 once more: 16 bits have rounded them."""
    wide_NSD = vectors_NSD.astype(np.float32)
    return wide_NSD / np.maximum(np.linalg.norm(wide_NSD, axis=-1, keepdims=True), np.float32(1e-12))


class _Groups:
    """A union-find over places 0 to N - 1 that takes many pairs at once; the first of a group speaks for it."""

    def __init__(self, size: int) -> None:
        self._parents = np.arange(size)

    def firsts(self, places: Integers) -> Integers:
        found = places
        while not np.array_equal(above := self._parents[found], found):
            found = above
        self._parents[places] = found
        return found

    def join(self, ones: Integers, others: Integers) -> None:
        while len(ones):
            ones, others = self.firsts(ones), self.firsts(others)
            apart = ones != others
            low, high = np.minimum(ones, others)[apart], np.maximum(ones, others)[apart]
            np.minimum.at(self._parents, high, low)  # of several, the lowest; the others are joined in the next round
            ones, others = low, high
