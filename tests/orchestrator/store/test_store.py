import hashlib
import os
import pickle
import threading
from pathlib import Path

import pytest

from orchestrator.backends.objects import check_key, file_digest
from orchestrator.errors import CorruptArtifactError, RecipeError, StoreError
from orchestrator.store.store import Store, open_store, probe, put_same, read_record, record_bytes


def test_the_first_create_of_a_key_wins_and_the_second_changes_nothing(store: Store) -> None:
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"


def test_a_key_that_was_never_made_reads_as_none(store: Store, tmp_path: Path) -> None:
    assert store.get("no/such") is None
    assert store.digest("no/such") is None
    assert store.download("no/such", tmp_path / "file") is None
    assert list(store.list("no")) == []
    assert store.folders("no") == ()
    store.delete("no/such")


def test_a_part_of_an_object_is_read(store: Store) -> None:
    store.put_new("a/b", b"0123456789")
    assert store.get_range("a/b", 3, 4) == b"3456"
    assert store.get_range("a/b", 7, 3) == b"789"
    assert store.get_range("a/c", 0, 1) is None


def test_a_folder_is_not_an_object(store: Store) -> None:
    store.put_new("a/b", b"data")
    assert store.digest("a") is None
    assert [item.key for item in store.list("a")] == ["a/b"]


def test_listing_shows_all_depths_and_only_the_folder_asked_for(store: Store) -> None:
    for key in ("a/z", "a/b/c", "a/b/d/e", "ab/c"):
        store.put_new(key, b"12345")
    assert [(item.key, item.bytes) for item in store.list("a")] == [("a/b/c", 5), ("a/b/d/e", 5), ("a/z", 5)]
    assert store.folders("a") == ("b",)
    assert store.folders("a/b") == ("d",)


def test_a_deleted_object_is_gone_and_its_neighbours_stay(store: Store) -> None:
    store.put_new("a/b/c", b"1")
    store.put_new("a/d", b"2")
    store.delete("a/b/c")
    assert [item.key for item in store.list("a")] == ["a/d"]
    assert store.put_new("a/b/c", b"3")


@pytest.mark.parametrize("size", [0, 1, 9 * 1024**2])
def test_files_are_uploaded_and_downloaded_with_their_digest(store: Store, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    expected = file_digest(source)
    assert store.upload(source, "data/file") == expected
    assert store.digest("data/file") == expected
    assert store.download("data/file", tmp_path / "copy") == expected
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [0, 5, 9 * 1024**2])
def test_chunks_are_written_with_their_digest(store: Store, size: int) -> None:
    data = os.urandom(size)
    chunks = [data[:3], memoryview(data)[3:]]
    digest = store.write("data/file", lambda: chunks, size)
    assert (digest.bytes, digest.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert store.digest("data/file") == digest


def test_a_link_holds_the_same_bytes_and_survives_its_source(store: Store, tmp_path: Path) -> None:
    store.put_new("a/source", b"bytes")
    store.link("a/source", "b/target")
    store.delete("a/source")
    assert store.get("b/target") == b"bytes"


@pytest.mark.parametrize("name", ["with space", "100%", "a#b?c", "été", "日本", "~tilde", "a=b&c+d", "it's"])
def test_odd_names_are_listed_unchanged(store: Store, name: str) -> None:
    assert store.put_new(f"folder/{name}", b"data")
    assert [item.key for item in store.list("folder")] == [f"folder/{name}"]
    assert store.get(f"folder/{name}") == b"data"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\0b"])
def test_keys_that_could_leave_the_store_are_refused(key: str) -> None:
    with pytest.raises(StoreError, match="expected parts joined by single '/'"):
        check_key(key)


def test_many_threads_creating_one_key_have_one_winner(store: Store) -> None:
    results: list[bool] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        results.append(store.put_new("race/key", f"writer {number}".encode()))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_the_probe_accepts_a_sound_store_and_leaves_nothing_behind(store: Store) -> None:
    probe(store)
    assert list(store.list("probe")) == []


def test_a_store_can_be_sent_to_another_process(local_store: Store, s3_store: Store) -> None:
    for store in (local_store, s3_store):
        store.put_new("a/b", b"data")
        assert pickle.loads(pickle.dumps(store)).get("a/b") == b"data"  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/folder", "found an address that starts with 'ftp://'; expected a local path, file://, s3://"),
        ("s3://key:secret@bucket/x", "found a name or password in the address; expected credentials in the environm"),
        ("s3://bucket?endpoint=http://me:pw@host", "found a name or password in the address"),
        (
            "s3://bucket/x?secret_access_key=1",
            "found option 'secret_access_key', expected endpoint, region or",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_explained(address: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        open_store(address)
    assert message in str(caught.value)


def test_a_password_in_an_address_is_not_repeated_in_the_message() -> None:
    for address in ("s3://key:hush@bucket/x", "s3://bucket?endpoint=http://me:hush@host"):
        with pytest.raises(RecipeError) as caught:
            open_store(address)
        assert "hush" not in str(caught.value)


def test_a_file_address_is_a_local_store(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/store").local("a/b") == tmp_path / "store/a/b"


@pytest.mark.parametrize("junk", [b"", b"{", b'{"a": 1', b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_is_not_a_json_object_is_named(local_store: Store, junk: bytes) -> None:
    local_store.put_new("a/record.json", junk)
    with pytest.raises(CorruptArtifactError, match=r"a/record\.json: found"):
        read_record(local_store, "a/record.json")


def test_putting_the_same_twice_is_fine_and_something_else_is_an_error(store: Store) -> None:
    put_same(store, "a/b", record_bytes({"x": 1}))
    put_same(store, "a/b", record_bytes({"x": 1}))
    with pytest.raises(StoreError, match="'a/b' exists with other content"):
        put_same(store, "a/b", record_bytes({"x": 2}))


def test_many_objects_are_deleted_together(store: Store) -> None:
    keys = [f"many/{number}" for number in range(5)]
    for key in keys:
        store.put_new(key, b"x")
    store.delete_many([keys[0], "many/absent", *keys[1:4]])
    assert [item.key for item in store.list("many")] == [keys[4]]
    store.delete_many([])
    store.delete_many(keys)
    assert list(store.list("many")) == []
