"""Logs in a remote store: uploaded while they are written, few objects in the end, nothing lost with a process."""

from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.logs import pieces
from orchestrator.logs.pieces import Piece, PieceUploader, list_pieces
from tests.orchestrator.conftest import MemoryStore

FOLDER = "runs/r/logs"


def uploader_of(store: MemoryStore, path: Path, writer: str = "w1") -> PieceUploader:
    return PieceUploader(store, FOLDER, path, writer=writer)


def stored(store: MemoryStore, name: str) -> bytes:
    found = list_pieces(store, FOLDER).get(name, [])
    return b"".join(store.get(f"{FOLDER}/{piece.name}") or b"" for piece in found)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_is_written_is_in_the_store_after_the_next_upload(memory_store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "one-1-1.log"
    uploader = uploader_of(memory_store, path)
    uploader.upload_new()  # nothing is written yet
    for data in (b"first\n", b"second\n"):
        append(path, data)
        uploader.upload_new()
    uploader.upload_new()
    assert sorted(memory_store.objects) == [
        f"{FOLDER}/one-1-1.log/w1-000000000000-000000000006.log",
        f"{FOLDER}/one-1-1.log/w1-000000000006-000000000013.log",
    ]
    assert stored(memory_store, path.name) == b"first\nsecond\n"


def test_many_small_pieces_become_few(memory_store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "one-1-1.log"
    uploader = uploader_of(memory_store, path)
    for number in range(10 * pieces.MAX_SMALL_PIECES):
        append(path, b"line %d\n" % number)
        uploader.upload_new()
        assert len(memory_store.objects) <= pieces.MAX_SMALL_PIECES
    uploader.finish()
    assert len(memory_store.objects) == 1
    assert stored(memory_store, path.name) == path.read_bytes()


def test_the_rest_of_a_process_that_was_killed_is_uploaded_by_another(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    path = tmp_path / "one-1-1.worker-7.log"
    append(path, b"uploaded\n")
    uploader_of(memory_store, path).upload_new()
    append(path, b"not yet\n")
    PieceUploader.continuing(memory_store, FOLDER, path, now_s=0.0).finish()
    assert stored(memory_store, path.name) == b"uploaded\nnot yet\n"


def test_two_writers_of_one_log_do_not_hide_each_other(memory_store: MemoryStore, tmp_path: Path) -> None:
    for writer in ("w1", "w2"):  # the same attempt, followed on two machines one after the other
        path = tmp_path / writer / "one-1-1.log"
        path.parent.mkdir()
        append(path, f"by {writer}\n".encode())
        uploader_of(memory_store, path, writer).finish()
    assert stored(memory_store, "one-1-1.log") == b"by w1\nby w2\n"


def test_a_merge_that_was_cut_off_repeats_nothing(memory_store: MemoryStore) -> None:
    for start, end in ((0, 2), (2, 4), (0, 4)):
        piece = Piece(file="one.log", writer="w1", start=start, end=end)
        memory_store.put_new(f"{FOLDER}/{piece.name}", b"abcd"[start:end])
    assert stored(memory_store, "one.log") == b"abcd"


def test_a_store_that_is_away_only_delays_the_upload(
    memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_key: str, _data: bytes) -> bool:
        raise StoreError("away")

    path = tmp_path / "one-1-1.log"
    uploader = uploader_of(memory_store, path)
    append(path, b"line\n")
    with monkeypatch.context() as patch:
        patch.setattr(memory_store, "put_new", refuse)
        for _ in range(3):
            uploader.upload_new()
    assert [record.getMessage() for record in caplog.records] == ["log one-1-1.log: uploading it is delayed: away"]
    uploader.upload_new()
    assert stored(memory_store, path.name) == b"line\n"
