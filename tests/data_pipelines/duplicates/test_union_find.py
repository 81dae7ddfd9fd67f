"""Groups are those of the graph whose edges are the pairs, however the pairs are joined."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.duplicates.union_find import UnionFind

PAIRS = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20)


@given(PAIRS, PAIRS)
def test_groups_follow_the_pairs_joined_singly_or_at_once(
    single: list[tuple[int, int]], many: list[tuple[int, int]]
) -> None:
    groups = UnionFind(15)
    for left, right in single:
        groups.join(left, right)
    pairs = np.array(many, dtype=np.int64).reshape(-1, 2)
    groups.join_pairs(pairs[:, 0], pairs[:, 1])
    linked = np.eye(15, dtype=np.bool_)
    for left, right in single + many:
        linked[left, right] = linked[right, left] = True
    for _ in range(4):
        linked = linked @ linked
    expected = linked.argmax(axis=1).tolist()
    assert groups.firsts(np.arange(15)).tolist() == expected
    assert [groups.first(item) for item in range(15)] == expected


def test_no_items_have_no_groups() -> None:
    assert UnionFind(0).firsts(np.zeros(0, np.int64)).tolist() == []
