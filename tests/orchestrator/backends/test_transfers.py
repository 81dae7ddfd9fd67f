import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends import bucket as connection
from orchestrator.backends import transfers
from orchestrator.backends.objects import Digest
from orchestrator.backends.transfers import MAX_PART_BYTES, MAX_PARTS, MIB, OvertakenError, part_bytes, parts_in_flight
from orchestrator.errors import StoreError
from orchestrator.store.store import Store
from tests.orchestrator.store.weak_bucket import WeakBucket, weak_bucket

BODY = bytes(range(256)) * 4096 * 3  # 3 MiB
WHOLE = Digest(bytes=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakBucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(connection, "STALL_S", 60.0)  # none but the answers that are to stall, on a busy machine too
    monkeypatch.setattr(transfers, "BREAK_WAIT_S", 0.0)
    with weak_bucket() as bucket:
        bucket.objects["key"] = BODY
        yield bucket


def notice_stalls(faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if any(fault.startswith("stall") for fault in faults):
        monkeypatch.setattr(connection, "STALL_S", 1.0)


@pytest.fixture
def in_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large object: ranges of 256 KiB, four at a time, after a first one of 512 KiB."""
    monkeypatch.setattr(transfers, "FIRST_BYTES", MIB // 2)
    monkeypatch.setattr(transfers, "RANGE_BYTES", MIB // 4)


@pytest.mark.parametrize("faults", [["cut 1000000"], ["stall 1000000"], ["busy"], ["stall 0", "cut 500000", "busy"]])
def test_what_had_arrived_before_a_break_is_not_asked_for_again(
    weak: WeakBucket, tmp_path: Path, monkeypatch, faults
) -> None:
    notice_stalls(faults, monkeypatch)
    weak.faults = list(faults)
    assert weak.store.download("key", tmp_path / "file") == WHOLE
    assert (tmp_path / "file").read_bytes() == BODY
    assert weak.sent - len(BODY) <= len(faults) * transfers.YIELD_BYTES
    assert weak.faults == []


@pytest.mark.parametrize("faults", [[], ["ok", "cut 100000", "stall 100000", "busy", "ok", "cut 1"]])
def test_ranges_in_parallel_make_the_same_file(
    weak: WeakBucket, tmp_path: Path, monkeypatch, in_ranges, faults
) -> None:
    notice_stalls(faults, monkeypatch)
    weak.faults = list(faults)
    assert weak.store.download("key", tmp_path / "file") == WHOLE
    assert (tmp_path / "file").read_bytes() == BODY
    weak.faults = list(faults)
    assert weak.store.digest("key") == WHOLE
    starts = {int(asked.partition("-")[0]) for _, asked in weak.requests}
    assert {0, *range(MIB // 2, len(BODY), MIB // 4)} <= starts
    assert faults or weak.sent == 2 * len(BODY)


@pytest.mark.parametrize("faults", [["shifted"], ["ok", "shifted", "shifted"]])
def test_an_answer_of_other_bytes_is_asked_for_again(weak: WeakBucket, tmp_path: Path, in_ranges, faults) -> None:
    weak.faults = list(faults)
    assert weak.store.download("key", tmp_path / "file") == WHOLE


def test_a_server_that_does_not_answer_with_ranges_is_named(weak: WeakBucket, tmp_path: Path) -> None:
    weak.faults = ["shifted"] * 100
    with pytest.raises(StoreError, match=r"does not answer requests for a part of an object as S3 does .*NO_PROXY"):
        weak.store.download("key", tmp_path / "file")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again below `Connection.call`, which waits for milliseconds."""
    monkeypatch.setitem(connection.RETRY, "max_retries", 0)
    monkeypatch.setattr(connection, "MAX_THROTTLE_WAIT_S", 0.01)


def test_a_store_that_asks_for_fewer_requests_is_waited_for(weak: WeakBucket, tmp_path: Path, impatient) -> None:
    weak.faults = ["busy"] * 9
    assert weak.store.get("key") == BODY
    weak.faults = ["cut 1000000", *["busy"] * 9]
    assert weak.store.download("key", tmp_path / "file") == WHOLE
    assert weak.faults == []


def test_a_store_that_never_stops_to_ask_for_fewer_requests_has_its_sentence(
    weak: WeakBucket, monkeypatch: pytest.MonkeyPatch, impatient
) -> None:
    monkeypatch.setattr(connection, "THROTTLED_S", 0.0)
    weak.faults = ["busy"] * 9
    with pytest.raises(StoreError, match=r"still asks for fewer requests after 0 s: raise its limits"):
        weak.store.get("key")


def test_a_download_goes_on_where_an_earlier_process_was_killed(weak: WeakBucket, tmp_path: Path) -> None:
    for left in (1, 2_000_000, len(BODY)):
        (tmp_path / "file").write_bytes(BODY[:left])
        weak.requests.clear()
        assert weak.store.download("key", tmp_path / "file") == WHOLE
        first = f"{left}-{left + transfers.FIRST_BYTES - 1}"
        assert [asked for _, asked in weak.requests] == ([first] if left < len(BODY) else [])


@pytest.mark.parametrize(("size", "num_requests"), [(0, 2), (1, 1), (1000, 1)])
def test_small_objects_take_one_request(weak: WeakBucket, tmp_path: Path, size: int, num_requests: int) -> None:
    weak.objects["small"] = BODY[:size]
    found = weak.store.download("small", tmp_path / "file")
    assert found == Digest(bytes=size, sha256=hashlib.sha256(BODY[:size]).hexdigest())
    assert len(weak.requests) == num_requests


def test_an_object_that_is_replaced_while_it_is_read_is_named(weak: WeakBucket, tmp_path: Path, in_ranges) -> None:
    weak.faults = ["ok", "ok", "replace"]
    with pytest.raises(StoreError, match=r"cannot copy to .* 'key' was replaced while it was read: found another ETag"):
        weak.store.download("key", tmp_path / "file")


def test_an_answer_that_never_comes_is_an_error_in_the_end(weak: WeakBucket, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(connection.RETRY, "max_retries", 0)
    weak.faults = ["cut 10", *["cut 0"] * 50]
    with pytest.raises(StoreError, match=r"cannot copy to .*'key'.*Check the address, the network"):
        weak.store.download("key", tmp_path / "file")


def test_no_object_leaves_no_file(weak: WeakBucket, tmp_path: Path) -> None:
    assert weak.store.download("absent", tmp_path / "file") is None
    assert not (tmp_path / "file").exists()
    assert weak.store.digest("absent") is None


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, 8 * MIB),
        (MAX_PARTS * 8 * MIB, 8 * MIB),
        (MAX_PARTS * 8 * MIB + 1, 9 * MIB),
        (10**12, 96 * MIB),
        (MAX_PARTS * MAX_PART_BYTES, MAX_PART_BYTES),
    ],
)
def test_parts_grow_so_that_ten_thousand_are_enough(size: int, part: int) -> None:
    assert part_bytes(size) == part
    assert part * MAX_PARTS >= size
    assert 2 <= parts_in_flight(part) <= 8


def test_more_than_any_store_takes_is_refused() -> None:
    with pytest.raises(StoreError, match=r"53,687,091,200,001 bytes: more than an object can have .*; write several"):
        part_bytes(MAX_PARTS * MAX_PART_BYTES + 1)


def test_an_upload_has_no_more_parts_than_a_store_takes(s3_store: Store, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(transfers, "MAX_PARTS", 2)
    source = tmp_path / "file"
    source.write_bytes(bytes(20 * MIB))
    assert s3_store.upload(source, "big") == s3_store.digest("big")
    head = s3_store.connection.call(lambda clients: transfers.obstore.head(clients.requests, "big"))  # type: ignore[attr-defined]  # of an ObjectStore
    assert head["e_tag"].strip('"').endswith("-2")


def test_an_upload_whose_completion_was_not_answered_is_sent_again(s3, s3_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 4 * 10 * 1024)
    s3.lost_completions = 1
    assert s3_store.upload(source, "big") == s3_store.digest("big")
    assert s3.lost_completions == 0


def test_an_upload_that_another_one_overtook_is_named(s3, s3_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(10 * MIB))
    s3.overtaken_by = b"theirs"
    with pytest.raises(OvertakenError, match=r"another upload overtook this one: found 6 bytes .*expected 10,485,760"):
        s3_store.upload(source, "big")
