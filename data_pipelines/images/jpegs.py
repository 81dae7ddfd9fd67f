"""What is particular about JPEGs: their segments, and coding to and from the pixels of Pillow in less time.

Legend: Y, X pixel rows and columns; C channels.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import simplejpeg
import xxhash
from PIL import Image

SHRINKS = (8, 4, 2)  # what a decoder divides the size by for less than the work of decoding all
Segment = tuple[int, int, int]  # its marker, where it begins and where it ends
_COLOURSPACES = {"RGB": "RGBX", "L": "GRAY"}  # by Pillow's mode; others need its rules for inks


def sound_jpeg(data: bytes, header: Image.Image, wanted: tuple[int, int]) -> Image.Image | None:
    """The pixels of `data`, RGBX or L, by the largest of `SHRINKS` smaller that leaves the `wanted` width and height.

    None: it is no JPEG, or the decoder has anything to say about it; whether it is usable is for Pillow to tell.
    Pillow lays out its own pixels like this, so nothing is copied.
    """
    colourspace = _COLOURSPACES.get(header.mode)
    if header.format != "JPEG" or colourspace is None:
        return None
    width, height = header.size
    shrink = next((one for one in SHRINKS if width // wanted[0] >= one and height // wanted[1] >= one), 1)
    size = -(-width // shrink), -(-height // shrink)
    room_YXC = np.empty((size[1], size[0], 4 if colourspace == "RGBX" else 1), np.uint8)  # whatever the data say
    try:
        found_YXC = simplejpeg.decode_jpeg(data, colourspace, min_height=size[1], min_width=size[0], buffer=room_YXC)
    except ValueError:
        return None
    if found_YXC.shape != room_YXC.shape:
        return None
    mode = "L" if colourspace == "GRAY" else colourspace
    return Image.frombuffer(mode, size, room_YXC, "raw", mode, 0, 1)


def coded(pixels_YXC: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of 4 channels, of which the last is not used, or of one of grey; colours at half the resolution."""
    colourspace, sampling = ("GRAY", "Gray") if pixels_YXC.shape[2] == 1 else ("RGBX", "420")
    return bytes(simplejpeg.encode_jpeg(pixels_YXC, quality, colourspace, sampling))


def segments(data: bytes, limit: int) -> list[Segment]:
    """At most `limit` parts of a JPEG up to the pixels, which belong to the last one.

    A byte between two parts, as filling, is a part of its own.
    """
    found: list[Segment] = []
    place, end = 2, len(data) - 3
    while place < end and len(found) < limit:
        marker = data[place + 1]
        if data[place] != 0xFF or marker in (0x00, 0xFF):
            following = place + 1
        elif marker == 0xDA:
            following = len(data)
        elif 0xD0 <= marker <= 0xD9:
            following = place + 2
        else:
            following = place + 2 + (data[place + 2] << 8 | data[place + 3])
        found.append((marker, place, following))
        place = following
    return found


def coded_digest(data: bytes, parts: Iterable[Segment]) -> str:
    """Equal for JPEG files of one coded picture, whatever is said around it in comments and application data."""
    digest, view = xxhash.xxh3_128(), memoryview(data)[: data.rfind(b"\xff\xd9") + 2 or len(data)]
    for marker, begin, end in parts:
        if marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # EE says how colours are coded
            digest.update(view[begin:end])
    return digest.hexdigest()
