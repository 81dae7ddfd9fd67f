"""Groups samples whose images have near embeddings.

Legend: N samples, S images of a sample, D width of an embedding.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_pipelines.duplicates.candidates import Candidates
from data_pipelines.duplicates.near_vectors import Integers, Vectors, near_pairs
from data_pipelines.duplicates.probed_vectors import probed_pairs
from data_pipelines.duplicates.search import Copy, resolve_to_kept
from data_pipelines.duplicates.union_find import UnionFind


def add_semantic_copies(
    candidates: Candidates,
    copies: Sequence[Copy],
    embeddings: Sequence[Sequence[Vectors] | None],
    distance: float,
    *,
    probes: int | None = None,
) -> list[Copy]:
    """`copies` and the semantic copies among the other samples, in order.

    Samples of one partition with the same number of images form a group if their embeddings, slot by slot, are less
    than `distance` of cosine apart, also through others between them; the first of a group is kept. `embeddings`: of
    the images of each candidate; None: unknown. `probes`: see `probed_pairs`; None: the exact search.
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
            firsts = group_by_meaning(vectors_NSD, distance, probes=probes)
            for sample in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
                original = indices[int(firsts[sample])]
                found.append(
                    Copy(index=indices[sample], original=original, verdict="near_duplicate", reason="similar_meaning")
                )
    return resolve_to_kept([*copies, *found])


def group_by_meaning(vectors_NSD: Vectors, distance: float, *, probes: int | None = None) -> Integers:
    """For each sample the first sample of its group [N]."""
    pairs = near_pairs(vectors_NSD, distance) if probes is None else probed_pairs(vectors_NSD, distance, probes)
    groups = UnionFind(len(vectors_NSD))
    for left, right in pairs:
        groups.join_pairs(left, right)
    return groups.firsts(np.arange(len(vectors_NSD)))
