"""The count of quarantined items against the share that the stage allows."""

import pytest

from orchestrator.failures.classes import classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.quarantine import MAX_SHOWN_CHARACTERS, QuarantineCount, shortened
from orchestrator.shards import Quarantined


def items(reason: str, number: int) -> list[Quarantined]:
    return [Quarantined(item=f"{index}.jpg", reason=reason) for index in range(number)]


def test_the_allowed_share_itself_passes_and_one_item_more_fails() -> None:
    count = QuarantineCount(num_items=10, max_share=0.2, where="curate: images")
    count.add(items("unreadable", 2))
    count.check()
    count.add(items("too large", 1))
    with pytest.raises(Exception, match=r"curate: images: found 3 of 10 items .* at most 20\.00%") as failure:
        count.check()
    assert classify(failure.value) is FailureClass.DATA_POISON


def test_a_map_without_items_allows_nothing_and_needs_nothing() -> None:
    QuarantineCount(num_items=0, max_share=0.0, where="curate: images").check()


def test_the_message_lists_the_most_common_reasons_with_their_first_items() -> None:
    count = QuarantineCount(num_items=20, max_share=0.0, where="curate: images")
    for reason, number in (("rare", 1), ("a", 2), ("b", 3), ("c", 4)):
        count.add(items(reason, number))
    with pytest.raises(Exception, match="curate") as failure:
        count.check()
    lines = str(failure.value).splitlines()[1:]
    listed = [f'  {number} x {reason}; first: "0.jpg"' for reason, number in (("c", 4), ("b", 3), ("a", 2))]
    assert lines == [*listed, "  and 1 more reason; `illume events` has all of them"]


def test_shortened_text_has_at_most_the_allowed_length() -> None:
    assert shortened("x" * MAX_SHOWN_CHARACTERS) == "x" * MAX_SHOWN_CHARACTERS
    assert len(shortened("x" * 1000)) == MAX_SHOWN_CHARACTERS
