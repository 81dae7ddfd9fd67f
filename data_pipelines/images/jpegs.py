"""JPEGs: their segments, a digest of their coded data, and faster decoding and encoding than Pillow's.

Legend: Y, X pixel rows and columns; C channels.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import simplejpeg
import xxhash
from PIL import Image

SHRINKS = (8, 4, 2)  # divisors of the size at which decoding costs less than at full size
Segment = tuple[int, int, int]  # marker, offset of its start, offset of its end
_COLOURSPACES = {"RGB": "RGBX", "L": "GRAY"}  # by Pillow's mode; CMYK needs Pillow's own conversion


def decode_jpeg(data: bytes, header: Image.Image, min_size: tuple[int, int]) -> Image.Image | None:
    """The pixels of `data` in RGBX or L, shrunk by the largest of `SHRINKS` that keeps the size at least `min_size`.

    `min_size`: width and height. None if `data` is no JPEG or the decoder warns about it; Pillow then decides whether
    it is usable. Pillow's own pixels have the same layout, so nothing is copied.
    """
    colourspace = _COLOURSPACES.get(header.mode)
    if header.format != "JPEG" or colourspace is None:
        return None
    width, height = header.size
    shrink = next((by for by in SHRINKS if width // min_size[0] >= by and height // min_size[1] >= by), 1)
    size = -(-width // shrink), -(-height // shrink)
    # A buffer of our own size bounds the memory, whatever size the data state.
    buffer_YXC = np.empty((size[1], size[0], 4 if colourspace == "RGBX" else 1), np.uint8)
    try:
        decoded_YXC = simplejpeg.decode_jpeg(
            data, colourspace, min_height=size[1], min_width=size[0], buffer=buffer_YXC
        )
    except ValueError:
        return None
    if decoded_YXC.shape != buffer_YXC.shape:
        return None
    mode = "L" if colourspace == "GRAY" else colourspace
    return Image.frombuffer(mode, size, buffer_YXC, "raw", mode, 0, 1)


def encode_jpeg(pixels_YXC: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of pixels in RGBX (X is ignored) with colours at half the resolution, or of one grey channel."""
    colourspace, sampling = ("GRAY", "Gray") if pixels_YXC.shape[2] == 1 else ("RGBX", "420")
    return bytes(simplejpeg.encode_jpeg(pixels_YXC, quality, colourspace, sampling))


def segments(data: bytes, limit: int) -> list[Segment]:
    """The first segments of a JPEG, at most `limit`; the last one holds the coded pixels and ends with the file.

    A padding byte between two segments is a segment of its own.
    """
    found: list[Segment] = []
    offset, end = 2, len(data) - 3
    while offset < end and len(found) < limit:
        marker = data[offset + 1]
        if data[offset] != 0xFF or marker in (0x00, 0xFF):
            following = offset + 1
        elif marker == 0xDA:
            following = len(data)
        elif 0xD0 <= marker <= 0xD9:
            following = offset + 2
        else:
            following = offset + 2 + (data[offset + 2] << 8 | data[offset + 3])
        found.append((marker, offset, following))
        offset = following
    return found


def coded_data_digest(data: bytes, parts: Iterable[Segment]) -> str:
    """A digest of a JPEG's coded image that ignores comments and application data."""
    digest, view = xxhash.xxh3_128(), memoryview(data)[: data.rfind(b"\xff\xd9") + 2 or len(data)]
    for marker, begin, end in parts:
        if marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # EE states how colours are coded
            digest.update(view[begin:end])
    return digest.hexdigest()
