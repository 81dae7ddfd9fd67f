"""Groups samples whose pictures mean the same to a model.

Legend: N samples, S pictures of a sample, D width of an embedding.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_pipelines.duplicates.candidates import Candidates
from data_pipelines.duplicates.near_vectors import Integers, Vectors, near_pairs
from data_pipelines.duplicates.search import Copy, towards_kept


def add_semantic_copies(
    candidates: Candidates,
    copies: Sequence[Copy],
    embeddings: Sequence[Sequence[Vectors] | None],
    distance: float,
) -> list[Copy]:
    """`copies` and those that only mean the same, in order.

    Of samples of one partition with as many pictures those are grouped whose pictures, slot by slot, are less than
    `distance` of cosine apart, also through others between them; the first of a group is kept. `embeddings`: of the
    pictures of each candidate, None: not known.
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
    for ones, others in near_pairs(vectors_NSD, distance):
        groups.join(ones, others)
    return groups.firsts(np.arange(len(vectors_NSD)))


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
