"""Which nodes the next attempts of a run are to do without."""

from orchestrator.history.node_offences import avoided_nodes


def test_one_observation_may_be_an_accident_and_two_are_not() -> None:
    once = {"node": "a", "what": "slow", "certain": False}
    assert avoided_nodes([once, {"node": "b", "what": "slow", "certain": False}]) == frozenset()
    assert avoided_nodes([once, {"node": "b"}, once]) == {"a"}


def test_what_is_certain_counts_at_once() -> None:
    assert avoided_nodes([{"node": "a", "certain": True}, {"node": "b", "certain": "yes"}]) == {"a"}


def test_records_without_a_node_name_nobody() -> None:
    assert avoided_nodes([{}, {}, {"node": ""}, {"node": ""}]) == frozenset()
