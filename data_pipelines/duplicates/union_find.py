"""Groups that grow as pairs are joined; the first member of a group represents it."""

from array import array

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class UnionFind:
    """Groups of the numbers 0 to `size` - 1, each alone at first. Joins single pairs, or many at once."""

    def __init__(self, size: int) -> None:
        self._parents = array("q", range(size))  # quicker for single numbers
        self._parents_N = np.frombuffer(self._parents, np.int64)  # the same memory

    def first(self, item: int) -> int:
        """The first member of an item's group."""
        parents = self._parents
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    def join(self, left: int, right: int) -> None:
        left, right = self.first(left), self.first(right)
        self._parents[max(left, right)] = min(left, right)

    def firsts(self, items: Integers) -> Integers:
        """The first member of the group of each item."""
        found = items
        while not np.array_equal(parents := self._parents_N[found], found):
            found = parents
        self._parents_N[items] = found
        return found

    def join_pairs(self, left: Integers, right: Integers) -> None:
        """Join each item of `left` with the one at the same position of `right`."""
        while len(left):
            left, right = self.firsts(left), self.firsts(right)
            differ = left != right
            low, high = np.minimum(left, right)[differ], np.maximum(left, right)[differ]
            np.minimum.at(self._parents_N, high, low)  # of several, the lowest; the others are joined in the next round
            left, right = low, high
