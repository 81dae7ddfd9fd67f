"""Reads tars that may be damaged: after a broken header, reading continues at the next one with a valid checksum.

Python's `tarfile` stops without an error at a broken header and loses all members after it.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from data_pipelines.archives.compressed_files import open_compressed

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_LONG_NAME_BYTES = 1 << 20
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link", b"3": "device", b"4": "device",
          b"5": "folder", b"6": "pipe", b"S": "sparse file"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One entry of a tar, with the offset of its bytes in the decompressed file."""

    name: str  # "" if the header is too broken to read it
    offset: int
    size: int
    kind: str  # "file", "link", "device", "pipe", "folder", "sparse file" or "damaged"
    problem: str = ""  # "", "bad_tar_member" or "truncated_tar_member"
    hard_link: str = ""  # the name that a hard link gives


@dataclass(frozen=True, kw_only=True)
class OpenedTar:
    """A seekable tar, decompressed if it was compressed."""

    file: IO[bytes]
    size: int
    problem: str = ""  # the compressed stream ended early or exceeded the limit; the data before that can be read


def open_tar(path: Path, *, max_unpacked_bytes: int) -> OpenedTar:
    """Open a tar, whatever its name; a compressed one is decompressed into a temporary file."""
    compressed = open_compressed(path, max_unpacked_bytes)
    if compressed is None:
        file = path.open("rb")
        return OpenedTar(file=file, size=file.seek(0, 2))
    content = tempfile.TemporaryFile()  # noqa: SIM115 # lives as long as the tar is read
    with compressed:
        shutil.copyfileobj(compressed, content, 1 << 20)
    return OpenedTar(file=content, size=content.tell(), problem=compressed.problem)


def is_header(block: bytes) -> bool:
    """Whether the first block of a file is certainly a tar header."""
    return len(block) == BLOCK and _parse_header(block, strict=True) is not None


def scan_tar(file: BinaryIO | IO[bytes], size: int) -> Iterator[TarMember]:
    """All members in order of offset; a damaged region comes as a member of kind "damaged".

    A hard link to an earlier file, which tar writes for the second name of one file, is that file under its own name.
    """
    files: dict[str, TarMember] = {}
    for member in _members(file, size):
        if member.kind == "file":
            files[member.name] = member
        linked = files.get(member.hard_link) if member.hard_link else None
        yield replace(linked, name=member.name) if linked else member


def _members(file: BinaryIO | IO[bytes], size: int) -> Iterator[TarMember]:
    offset, zero_blocks, in_damage = 0, 0, False
    extended: dict[str, str] = {}
    while offset + BLOCK <= size:
        block = _read(file, offset, BLOCK)
        if block == ZERO_BLOCK:
            zero_blocks, offset = zero_blocks + 1, offset + BLOCK
            continue
        header = _parse_header(block, strict=in_damage or zero_blocks >= 2)
        if header is None:
            if zero_blocks < 2 and not in_damage:
                yield _damaged_member(block, offset)
                in_damage = True
            offset = _after_damage(file, block, offset, size)
            continue
        zero_blocks, in_damage = 0, False
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
        name, kind = extended.get("path", name), extended.get("kind") or _KINDS.get(typeflag, "file")
        link = extended.get("linkpath", _parse_text(block[157:257])) if typeflag == b"1" else ""
        extended, problem = {}, ""
        if kind == "file" and data + length > size:
            following = _next_header(file, data, size)
            problem = "truncated_tar_member" if following is None else "bad_tar_member"  # the stated size is wrong
            offset = size if following is None else following
        yield TarMember(name=name, offset=data, size=length, kind=kind, problem=problem, hard_link=link)
    if zero_blocks < 2 and not in_damage and any(rest := _read(file, offset, max(size - offset, 0))):
        yield _damaged_member(rest, offset, "truncated_tar_member")  # the file ends within a header


def _read(file: BinaryIO | IO[bytes], offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _parse_header(block: bytes, *, strict: bool) -> tuple[str, int, bytes] | None:
    """(name, size, type) of a header with a valid checksum; `strict` also requires the magic word."""
    if strict and block[257:262] != b"ustar":
        return None
    checksum = _parse_number(block[148:156])
    if checksum is None or checksum != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    length = _parse_number(block[124:136])
    if length is None or length < 0:
        return None
    prefix = _parse_text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    name = _parse_text(block[:100])
    return (f"{prefix}/{name}" if prefix else name), length, block[156:157]


def _parse_text(field: bytes) -> str:
    """The text of a header. Names that are not UTF-8 are read as Latin-1, so that two of them never become one."""
    text = field.split(b"\0", 1)[0]
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _parse_number(field: bytes) -> int | None:
    """A number in octal digits, or in GNU's binary encoding with the highest bit set; None if it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else 0 if not digits else None


def _extension(typeflag: bytes, data: bytes) -> dict[str, str]:
    """The "path", "linkpath", "size" and "kind" that a GNU long name or a pax header gives the next member."""
    if typeflag in b"LK":
        return {"path" if typeflag == b"L" else "linkpath": _parse_text(data)}
    fields: dict[str, str] = {}
    while typeflag == b"x" and (match := re.match(rb"(\d{1,7}) ([^=\n]{1,99})=", data)):
        length = int(match[1])
        if not match.end() < length <= len(data):
            break
        key, value = match[2].decode("latin-1"), _parse_text(data[match.end() : length - 1])
        if key in ("path", "linkpath", "size"):
            fields.setdefault(key, value)
        elif key.startswith("GNU.sparse."):  # its data begin with a map of holes, or lack them
            fields["kind"] = "sparse file"
            if key == "GNU.sparse.name":
                fields["path"] = value
        data = data[length:]
    return fields


def _next_header(file: BinaryIO | IO[bytes], offset: int, size: int) -> int | None:
    """The offset of the next block that is certainly a header."""
    for start in range(offset, size - BLOCK + 1, BLOCK):
        block = _read(file, start, BLOCK)
        if block[257:262] == b"ustar" and _parse_header(block, strict=True) is not None:
            return start
    return None


def _damaged_member(block: bytes, offset: int, problem: str = "bad_tar_member") -> TarMember:
    """A member of kind "damaged", with the name in the broken header if that is readable."""
    name = _parse_text(block[:100]) if block[257:262] == b"ustar" else ""
    readable = name if name.isprintable() and block.startswith(name.encode()) else ""  # UTF-8
    return TarMember(name=readable, offset=offset, size=0, kind="damaged", problem=problem)


def _after_damage(file: BinaryIO | IO[bytes], block: bytes, offset: int, size: int) -> int:
    """The next offset to read: after the member if its stated size leads to a good header, else the next block."""
    length = _parse_number(block[124:136]) if block[257:262] == b"ustar" else None
    if length is not None and 0 <= length < size:
        target = offset + BLOCK + -(-length // BLOCK) * BLOCK
        following = _read(file, target, BLOCK) if target + BLOCK <= size else b""
        if following == ZERO_BLOCK or (following and _parse_header(following, strict=True) is not None):
            return target
    return offset + BLOCK
