from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from orchestrator.errors import RetainedError, StoreError
from orchestrator.store.deletion import Deleted, delete_objects
from tests.orchestrator.conftest import MemoryStore


@dataclass
class RetainingStore(MemoryStore):
    """Keeps what stands below `locked/`; fails for what stands below `broken/`."""

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key.startswith("locked/"):
                raise RetainedError(f"memory: cannot delete '{key}': object lock. The bucket keeps it for a time")
            if key.startswith("broken/"):
                raise StoreError("memory: away")
            self.delete(key)


def test_what_the_bucket_keeps_is_reported_and_the_rest_is_deleted(caplog: pytest.LogCaptureFixture) -> None:
    store = RetainingStore()
    for key in ("free/a", "locked/b", "locked/c", "free/d"):
        store.put_new(key, b"1234")
    found = [item for top in ("free", "locked") for item in store.list(top)]
    assert delete_objects(store, found) == Deleted(bytes=8, retained=("locked/b", "locked/c"))
    assert sorted(store.objects) == ["locked/b", "locked/c"]
    assert "cannot delete 'locked/b': object lock. The bucket keeps it for a time (and 1 more)" in caplog.text


def test_other_failures_are_errors() -> None:
    store = RetainingStore()
    store.put_new("broken/a", b"1")
    with pytest.raises(StoreError, match="away"):
        delete_objects(store, list(store.list("broken")))
