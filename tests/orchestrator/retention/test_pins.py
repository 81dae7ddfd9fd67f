import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import CorruptArtifactError
from orchestrator.retention.pins import is_pinned, pin, pins, unpin
from orchestrator.store.store import Store


def test_pins_are_listed_sorted_and_may_be_repeated(store: Store) -> None:
    late, early = ArtifactKey("train", "a" * 64), ArtifactKey("curate", "b" * 64)
    assert pins(store) == []
    for key in (late, early, late):
        pin(store, key)
    assert pins(store) == [early, late]
    for _ in range(2):
        unpin(store, late)
        assert pins(store) == [early]
        assert [is_pinned(store, key) for key in (late, early)] == [False, True]


@pytest.mark.parametrize("name", ["zz.json", "train/old/zz.json", "train/zz"])
def test_a_file_that_is_no_pin_is_named_instead_of_protecting_nothing(store: Store, name: str) -> None:
    store.put_new(f"pins/{name}", b"{}")
    with pytest.raises(CorruptArtifactError, match=f"pins/{name}: found a file that is no pin"):
        pins(store)
