"""Reads tars that may be damaged: after a broken header it goes on with the next one whose checksum is right.

Python's `tarfile` stops without an error at a broken header and loses all members behind it.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from data_pipelines.archives.compressed_files import open_packed

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_LONG_NAME_BYTES = 1 << 20
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link", b"3": "device", b"4": "device",
          b"5": "folder", b"6": "pipe", b"S": "sparse file"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry of a tar: where its bytes lie in the unpacked file."""

    name: str  # "" where a broken header no longer tells
    offset: int
    size: int
    kind: str  # "file", "link", "device", "pipe", "folder" or "damaged"
    problem: str = ""  # "", "bad_tar_member" or "truncated_tar_member"


@dataclass(frozen=True, kw_only=True)
class OpenedTar:
    """A tar that can be sought in, unpacked if it was compressed."""

    file: IO[bytes]
    size: int
    problem: str = ""  # the compressed stream ended early or went over the limit; what came before can be read


def open_tar(path: Path, *, max_unpacked_bytes: int) -> OpenedTar:
    """Open a tar whatever its name says; a compressed one is unpacked into a temporary file."""
    packed = open_packed(path, max_unpacked_bytes)
    if packed is None:
        file = path.open("rb")
        return OpenedTar(file=file, size=file.seek(0, 2))
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 # lives as long as the tar is read
    with packed:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    return OpenedTar(file=unpacked, size=unpacked.tell(), problem=packed.problem)


def is_header(block: bytes) -> bool:
    """Whether a file that begins so is a tar beyond doubt."""
    return len(block) == BLOCK and _parse(block, strict=True) is not None


def scan_tar(file: BinaryIO | IO[bytes], size: int) -> Iterator[Member]:
    """All members in order of place; broken stretches come as members of kind "damaged"."""
    offset, zero_blocks, lost = 0, 0, False
    extended: dict[str, str] = {}
    while offset + BLOCK <= size:
        block = _read(file, offset, BLOCK)
        if block == ZERO_BLOCK:
            zero_blocks, offset = zero_blocks + 1, offset + BLOCK
            continue
        header = _parse(block, strict=lost or zero_blocks >= 2)
        if header is None:
            if zero_blocks < 2 and not lost:
                yield _damaged(block, offset)
                lost = True
            offset = _after_damage(file, block, offset, size)
            continue
        zero_blocks, lost = 0, False
        name, length, typeflag = header
        data = offset + BLOCK
        offset = data + -(-length // BLOCK) * BLOCK
        if typeflag in b"LKxg":
            if length <= MAX_LONG_NAME_BYTES:
                extended.update(_extension(typeflag, _read(file, data, min(length, size - data))))
            continue
        if "size" in extended and extended["size"].isdigit():
            length = int(extended["size"])
            offset = data + -(-length // BLOCK) * BLOCK
        name, extended = extended.get("path", name), {}
        kind = _KINDS.get(typeflag, "file")
        problem = ""
        if kind == "file" and data + length > size:
            following = _next_header(file, data, size)
            problem = "truncated_tar_member" if following is None else "bad_tar_member"  # the stated size is wrong
            offset = size if following is None else following
        yield Member(name=name, offset=data, size=length, kind=kind, problem=problem)
    if zero_blocks < 2 and not lost and any(rest := _read(file, offset, max(size - offset, 0))):
        yield _damaged(rest, offset, "truncated_tar_member")  # cut in a header


def _read(file: BinaryIO | IO[bytes], offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _parse(block: bytes, *, strict: bool) -> tuple[str, int, bytes] | None:
    """(name, size, type) of a header whose checksum is right; `strict` also wants the magic word."""
    if strict and block[257:262] != b"ustar":
        return None
    stated = _number(block[148:156])
    if stated is None or stated != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    length = _number(block[124:136])
    if length is None or length < 0:
        return None
    prefix = _words(block[345:500]) if block[257:263] == b"ustar\0" else ""
    name = _words(block[:100])
    return (f"{prefix}/{name}" if prefix else name), length, block[156:157]


def _words(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _number(field: bytes) -> int | None:
    """Octal digits, or the GNU way with the highest bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else 0 if not digits else None


def _extension(typeflag: bytes, data: bytes) -> dict[str, str]:
    """What a GNU long name or a pax header says about the next member."""
    if typeflag == b"L":
        return {"path": _words(data)}
    fields: dict[str, str] = {}
    while typeflag == b"x" and (match := re.match(rb"(\d{1,7}) ([^=\n]{1,99})=", data)):
        length = int(match[1])
        if not match.end() < length <= len(data):
            break
        if match[2] in (b"path", b"size"):
            fields[match[2].decode()] = data[match.end() : length - 1].decode("utf-8", "replace")
        data = data[length:]
    return fields


def _next_header(file: BinaryIO | IO[bytes], offset: int, size: int) -> int | None:
    """The place of the next block that is a header beyond doubt."""
    for place in range(offset, size - BLOCK + 1, BLOCK):
        block = _read(file, place, BLOCK)
        if block[257:262] == b"ustar" and _parse(block, strict=True) is not None:
            return place
    return None


def _damaged(block: bytes, offset: int, problem: str = "bad_tar_member") -> Member:
    """The name of a broken header, if it still looks like one."""
    name = _words(block[:100]) if block[257:262] == b"ustar" else ""
    readable = name if name.isprintable() and "\ufffd" not in name else ""
    return Member(name=readable, offset=offset, size=0, kind="damaged", problem=problem)


def _after_damage(file: BinaryIO | IO[bytes], block: bytes, offset: int, size: int) -> int:
    """Where to look next: behind the member if its size still leads to a good header, else the next block."""
    length = _number(block[124:136]) if block[257:262] == b"ustar" else None
    if length is not None and 0 <= length < size:
        target = offset + BLOCK + -(-length // BLOCK) * BLOCK
        following = _read(file, target, BLOCK) if target + BLOCK <= size else b""
        if following == ZERO_BLOCK or (following and _parse(following, strict=True) is not None):
            return target
    return offset + BLOCK
