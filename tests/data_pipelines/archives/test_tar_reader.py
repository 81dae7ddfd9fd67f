"""Tars are read past damage: every whole member is found, and no damage makes the reader fail."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.archives.tar_reader import BLOCK, open_tar, scan_tar
from tests.data_pipelines.archives.tars import MEMBERS, contents, scanned, written


def test_members_behind_a_broken_header_are_found() -> None:
    data = bytearray(written(MEMBERS))
    broken = next(m for m in scanned(bytes(data)) if m.name == "s02.jpg")
    data[broken.offset - BLOCK + 148 : broken.offset - BLOCK + 156] = b"999999\0 "
    found = scanned(bytes(data))
    assert [m.name for m in found if m.problem] == ["s02.jpg"]
    assert contents(bytes(data)).keys() == MEMBERS.keys() - {"s02.jpg"}


def test_members_behind_a_stretch_of_garbage_are_found() -> None:
    data = written(MEMBERS)
    middle = next(m for m in scanned(data) if m.name == "s03.jpg").offset - BLOCK
    spoilt = data[:middle] + b"\xee" * (5 * BLOCK) + data[middle:]
    assert contents(spoilt) == MEMBERS
    assert [m.problem for m in scanned(spoilt) if m.kind == "damaged"] == ["bad_tar_member"]


def test_a_cut_member_is_named_and_those_before_it_are_whole() -> None:
    data = written(MEMBERS)
    last = next(m for m in scanned(data) if m.name == "s05.jpg")
    found = scanned(data[: last.offset + 10])
    assert (found[-1].name, found[-1].problem) == ("s05.jpg", "truncated_tar_member")
    assert len(found) == 11


@pytest.mark.parametrize("stated", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"00001000000\0"])
def test_members_behind_one_whose_size_is_a_lie_are_found(stated: bytes) -> None:
    header = bytearray(written(MEMBERS)[:BLOCK])
    header[124:136] = stated
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    found = scanned(bytes(header) + written(MEMBERS)[BLOCK:])
    assert (found[0].name, found[0].problem) == ("s00.jpg", "bad_tar_member")
    assert [member.name for member in found[1:] if not member.problem] == list(MEMBERS)[1:]


def test_sparse_files_are_no_plain_files_and_huge_extended_headers_are_passed_over() -> None:
    sparse = bytearray(written({"a.jpg": b"x"}))
    sparse[156:157] = b"S"
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse[:BLOCK])
    assert [member.kind for member in scanned(bytes(sparse))] == ["sparse file"]
    buffer = io.BytesIO()
    headers = {"comment": "x" * 2_000_000}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert contents(buffer.getvalue()) == {"a.jpg": b"abc"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_small_compressed_tar_keeps_what_lies_before_its_cut(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    rng = random.Random(0)
    members = {f"{number}.jpg": rng.randbytes(30_000) for number in range(60)}
    packed = pack(written(members))
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    opened = open_tar(path, max_unpacked_bytes=1 << 30)
    with opened.file:
        assert opened.problem
        whole = [member for member in scan_tar(opened.file, opened.size) if not member.problem]
    assert len(whole) >= 10


def test_bytes_behind_the_end_marks_are_no_damage() -> None:
    assert not [m for m in scanned(written(MEMBERS) + b"\xff" * 3000) if m.problem]
    assert contents(written({"a": b"1"}) + written({"b": b"2"})) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_are_read_in_every_dialect(form: int) -> None:
    names = ["d/" * 60 + "x.jpg", "bild.jpg"] + (["фото" * 30 + ".jpg"] if form != tarfile.USTAR_FORMAT else [])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    assert contents(buffer.getvalue()) == dict.fromkeys(names, b"abc")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_open_whatever_their_name(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "plain.tar"
    path.write_bytes(pack(written(MEMBERS)))  # type: ignore[operator] # one of three functions
    opened = open_tar(path, max_unpacked_bytes=1 << 20)
    assert not opened.problem
    assert len([m for m in scan_tar(opened.file, opened.size) if not m.problem]) == len(MEMBERS)


def test_a_compressed_tar_that_ends_early_or_unpacks_to_too_much_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    packed = gzip.compress(written({f"m{n}": bytes(range(256)) * 40 for n in range(400)}), compresslevel=1)
    path.write_bytes(packed[: len(packed) // 2])
    opened = open_tar(path, max_unpacked_bytes=1 << 30)
    assert "damaged" in opened.problem
    path.write_bytes(gzip.compress(bytes(50 << 20)))
    opened = open_tar(path, max_unpacked_bytes=4 << 20)
    assert "more than" in opened.problem
    assert opened.size <= 6 << 20


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_makes_the_reader_fail(data: st.DataObject) -> None:
    raw = bytearray(written(MEMBERS))
    for _ in range(data.draw(st.integers(1, 8))):
        index = data.draw(st.integers(0, len(raw) - 1))
        raw[index] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for member in scanned(bytes(raw[:cut])):
        assert member.problem or member.offset + member.size <= cut or member.kind != "file"
