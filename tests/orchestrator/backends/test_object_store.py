import threading
import time

import pytest

from orchestrator.backends.object_store import ObjectStore
from orchestrator.errors import StoreError
from orchestrator.store.store import Store, open_store, probe


def test_a_store_that_ignores_put_if_absent_is_refused(s3, s3_store: Store) -> None:
    s3.forget_conditions = True
    with pytest.raises(StoreError, match=r"this store ignores put-if-absent: the second create of 'probe/.*' replaced"):
        probe(s3_store)
    assert list(s3_store.list("probe")) == []


@pytest.mark.parametrize(
    "faults",
    [["lost reply"], ["lost reply", "lost reply"], ["conflict"], ["conflict"] * 3, ["error", "lost reply", "conflict"]],
)
def test_a_create_answered_with_an_error_succeeded_if_the_object_has_our_bytes(s3, s3_store: Store, faults) -> None:
    s3.faults = list(faults)
    assert s3_store.put_new("a/b", b"ours, with a nonce")
    assert s3_store.get("a/b") == b"ours, with a nonce"
    assert s3.faults == []


@pytest.mark.parametrize("faults", [["lost reply"], ["conflict"], ["error"]])
def test_a_create_with_unknown_outcome_fails_if_another_writer_was_first(s3, s3_store: Store, faults) -> None:
    s3_store.put_new("a/b", b"theirs")
    s3.faults = list(faults)
    assert not s3_store.put_new("a/b", b"ours")
    assert s3_store.get("a/b") == b"theirs"


def test_a_missing_bucket_is_an_error_and_not_an_empty_store(s3) -> None:
    store = open_store(s3.url("exists").replace("s3://exists", "s3://missing"))
    for action in (lambda: probe(store), lambda: store.get("a"), lambda: list(store.list("a"))):
        with pytest.raises(StoreError, match=r"NoSuchBucket.*Check the address, the network and that the bucket"):
            action()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("403 Forbidden", "Check the credentials in the environment"),
        pytest.param("507 Insufficient Storage", "507 Insufficient", marks=pytest.mark.slow),  # repeated for 10 s
    ],
)
def test_a_read_only_store_is_refused(s3, s3_store: Store, status: str, message: str) -> None:
    s3.refuse_writes = status
    with pytest.raises(StoreError, match=message) as caught:
        probe(s3_store)
    assert s3_store.url in str(caught.value)


def test_a_server_that_cannot_be_reached_is_reported_soon() -> None:
    started_s = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot write 'probe/.*Check the address, the network"):
        probe(open_store("s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1"))
    assert time.monotonic() - started_s < 60


def test_a_bucket_that_keeps_versions_is_fit(s3_store: ObjectStore) -> None:
    api = s3_store.s3
    assert api is not None
    api.client.put_bucket_versioning(Bucket=api.bucket, VersioningConfiguration={"Status": "Enabled"})
    probe(s3_store)
    for content in (b"first", b"second"):
        assert s3_store.put_new("a/b", content)
        assert not s3_store.put_new("a/b", b"another")
        assert [item.key for item in s3_store.list("a")] == ["a/b"]
        s3_store.delete("a/b")
        assert s3_store.get("a/b") is None
        assert list(s3_store.list("a")) == []


@pytest.mark.slow
def test_a_listing_of_more_than_one_page_is_complete(s3_store: Store) -> None:
    names = [f"many/{number:04d}" for number in range(1005)]
    threads = [
        threading.Thread(target=lambda part: [s3_store.put_new(name, b"") for name in part], args=(names[start::4],))
        for start in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.key for item in s3_store.list("many")] == names
