"""Groups samples whose images have near embeddings.

Legend: N samples, S images of a sample, D width of an embedding.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_pipelines.duplicates.candidates import Candidates
from data_pipelines.duplicates.near_vectors import Integers, Vectors, near_pairs
from data_pipelines.duplicates.search import Copy, resolve_to_kept


def add_semantic_copies(
    candidates: Candidates,
    copies: Sequence[Copy],
    embeddings: Sequence[Sequence[Vectors] | None],
    distance: float,
) -> list[Copy]:
    """`copies` and the semantic copies among the other samples, in order.

    Samples of one partition with the same number of images form a group if their embeddings, slot by slot, are less
    than `distance` of cosine apart, also through others between them; the first of a group is kept. `embeddings`: of
    the images of each candidate; None: unknown.
    """
    copied = {copy.index for copy in copies}
    comparable: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, vectors in enumerate(embeddings):
        if vectors and index not in copied and len(vectors) == candidates.num_images[index]:
            comparable[int(candidates.salts[index]), len(vectors)].append(index)
    found = []
    for indices in comparable.values():
        if len(indices) > 1:
            vectors_NSD = np.stack([np.stack(list(embeddings[index] or ())) for index in indices])
            firsts = group_by_meaning(vectors_NSD, distance)
            for sample in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
                original = indices[int(firsts[sample])]
                found.append(
                    Copy(index=indices[sample], original=original, verdict="near_duplicate", reason="similar_meaning")
                )
    return resolve_to_kept([*copies, *found])


def group_by_meaning(vectors_NSD: Vectors, distance: float) -> Integers:
    """For each sample the first sample of its group [N]."""
    groups = _UnionFind(len(vectors_NSD))
    for left, right in near_pairs(vectors_NSD, distance):
        groups.join(left, right)
    return groups.firsts(np.arange(len(vectors_NSD)))


class _UnionFind:
    """A union-find over 0 to N - 1 that joins many pairs at once; the first of a group represents it."""

    def __init__(self, size: int) -> None:
        self._parents = np.arange(size)

    def firsts(self, items: Integers) -> Integers:
        """The first of the group of each item."""
        found = items
        while not np.array_equal(parents := self._parents[found], found):
            found = parents
        self._parents[items] = found
        return found

    def join(self, left: Integers, right: Integers) -> None:
        while len(left):
            left, right = self.firsts(left), self.firsts(right)
            differ = left != right
            low, high = np.minimum(left, right)[differ], np.maximum(left, right)[differ]
            np.minimum.at(self._parents, high, low)  # of several, the lowest; the others are joined in the next round
            left, right = low, high
