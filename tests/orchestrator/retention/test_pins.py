from orchestrator.artifact import ArtifactKey
from orchestrator.retention.pins import pin, pins, unpin
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
