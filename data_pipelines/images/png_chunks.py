"""The chunks of a PNG that pixels need, for files whose other chunks are damaged or hold too much."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
HELPFUL = frozenset((b"tRNS", b"tEXt", b"zTXt", b"iTXt", b"eXIf"))  # kept where sound: texts may reserve the image
MAX_TEXT_BYTES = 8 << 20  # of an unpacked text
MAX_UNPACKED_BYTES = 64 << 20  # of all texts and profiles; a file with more is a bomb
MAX_CHUNKS = 10_000  # a file of more is a bomb, too
_STEP_BYTES = 1 << 20  # unpacked at once, and not kept


def without_side_chunks(data: bytes) -> bytes:
    """The file with the chunks that its pixels need, and sound texts.

    Returned as it is if it is no PNG, has no end, or is a bomb; of a bomb, no more than `MAX_UNPACKED_BYTES` are
    unpacked.
    """
    if not data.startswith(SIGNATURE):
        return data
    chunks = list(_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND" or len(chunks) > MAX_CHUNKS:
        return data
    kept, unpacked = [], 0
    for name, chunk in chunks:
        size = _unpacked_bytes(name, chunk[8:-4], MAX_UNPACKED_BYTES - unpacked)
        unpacked += size
        if unpacked > MAX_UNPACKED_BYTES:
            return data
        sound = size <= MAX_TEXT_BYTES and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in CRITICAL or (name in HELPFUL and sound):
            kept.append(chunk)
    return SIGNATURE + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, all bytes) of each whole chunk, up to the end mark."""
    offset, name = len(SIGNATURE), b""
    while offset + 12 <= len(data) and name != b"IEND":
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        if end > len(data):
            return
        name = data[offset + 4 : offset + 8]
        yield name, data[offset:end]
        offset = end


def _unpacked_bytes(name: bytes, content: bytes, limit: int) -> int:
    """The size of what a chunk of text or a profile unpacks to, or more than `limit`; 0 for other chunks."""
    packed = _packed_part(name, content)
    if packed is None:
        return 0
    unpacker, size = zlib.decompressobj(), 0
    try:
        while size <= limit and packed:
            size += len(unpacker.decompress(packed, _STEP_BYTES))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        return size
    return size


def _packed_part(name: bytes, content: bytes) -> bytes | None:
    """The compressed bytes of a chunk, None if it has none."""
    _, _, rest = content.partition(b"\0")
    if name in (b"zTXt", b"iCCP"):
        return rest[1:]
    if name == b"iTXt" and rest[:1] == b"\1":
        return rest[2:].split(b"\0", 2)[-1]
    return None
