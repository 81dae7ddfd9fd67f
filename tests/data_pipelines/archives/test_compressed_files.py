"""Compressed files are recognised by content, read up to their limit, and read up to their damage."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.archives.compressed_files import Utf8Stream, open_compressed, wide_encoding

CONTENT = bytes(range(256)) * 400


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def read(path: Path, max_bytes: int = 1 << 20) -> tuple[bytes, str]:
    compressed = open_compressed(path, max_bytes)
    assert compressed is not None
    with compressed:
        return compressed.read(), compressed.problem


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_every_format_is_recognised_whatever_the_name(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "plain.txt"
    path.write_bytes(compress(CONTENT))
    assert read(path) == (CONTENT, "")
    assert read(path, len(CONTENT)) == (CONTENT, "")
    content, problem = read(path, 1000)
    assert content == CONTENT[:1000]
    assert problem == "unpacks to more than 1000 bytes"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_cut_file_ends_with_a_problem(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cut.gz"
    whole = compress(CONTENT)
    path.write_bytes(whole[: len(whole) // 2])
    content, problem = read(path)
    assert CONTENT.startswith(content)
    assert problem.startswith("compressed data is damaged")


@pytest.mark.parametrize("content", [b"", b"\x1f", b'{"a": 1}'])
def test_other_files_are_not_compressed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    assert open_compressed(tmp_path / "a.gz", 100) is None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]"])
def test_wide_encodings_of_json_are_detected(encoding: str, mark: str, text: str) -> None:
    assert wide_encoding((mark + text).encode(encoding)[:16]) == encoding


@pytest.mark.parametrize("start", [b'{"a": 1}', b"[1, 2]", "\ufeff{}".encode(), b"", b"\x00"])
def test_other_starts_have_no_wide_encoding(start: bytes) -> None:
    assert wide_encoding(start) is None


@given(st.text(max_size=200), st.sampled_from(["utf-16-le", "utf-32-be"]), st.integers(1, 9))
def test_wide_text_is_read_as_utf_8(text: str, encoding: str, at_once: int) -> None:
    stream = Utf8Stream(io.BytesIO(text.encode(encoding)), encoding)
    parts = list(iter(lambda: stream.read(at_once), b""))
    assert b"".join(parts).decode() == text


def test_invalid_characters_are_replaced() -> None:
    assert Utf8Stream(io.BytesIO(b"\x00\xd8a\x00"), "utf-16-le").read().decode() == "\ufffda"
