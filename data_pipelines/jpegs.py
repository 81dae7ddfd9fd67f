"""What is particular about JPEGs: their segments, and a decoder that gives the pixels of Pillow in less time.

Legend: Y, X pixel rows and columns; C channels.
"""

import numpy as np
import simplejpeg
import xxhash
from PIL import Image

SHRINKS = (8, 4, 2)  # what a decoder divides the size by for less than the work of decoding all
_COLOURSPACES = {"RGB": "RGB", "L": "GRAY"}  # by Pillow's mode; others need its rules for inks


def sound_jpeg(data: bytes, header: Image.Image, wanted: tuple[int, int]) -> Image.Image | None:
    """The pixels of `data`, RGB or L, by the largest of `SHRINKS` smaller that leaves the `wanted` width and height.

    None: it is no JPEG, or the decoder has anything to say about it; whether it is usable is for Pillow to tell.
    """
    colourspace = _COLOURSPACES.get(header.mode)
    if header.format != "JPEG" or colourspace is None:
        return None
    width, height = header.size
    shrink = next((one for one in SHRINKS if width // wanted[0] >= one and height // wanted[1] >= one), 1)
    size = -(-height // shrink), -(-width // shrink)
    room_YXC = np.empty((*size, len(header.mode)), np.uint8)  # no more, whatever another header in the file says
    try:
        found_YXC = simplejpeg.decode_jpeg(data, colourspace, min_height=size[0], min_width=size[1], buffer=room_YXC)
    except ValueError:
        return None
    if found_YXC.shape != room_YXC.shape:
        return None
    return Image.fromarray(room_YXC if header.mode == "RGB" else room_YXC[:, :, 0])


def next_segment(data: bytes, place: int) -> int:
    """The place after a segment or a byte of filling; the end of the file once the pixels begin."""
    marker = data[place + 1]
    if data[place] != 0xFF or marker in (0x00, 0xFF):
        return place + 1
    if marker == 0xDA:
        return len(data)
    return place + 2 + (0 if 0xD0 <= marker <= 0xD9 else int.from_bytes(data[place + 2 : place + 4], "big"))


def coded_digest(data: bytes) -> str:
    """Equal for JPEG files of one coded picture, whatever is said around it in comments and application data."""
    digest, view = xxhash.xxh3_128(), memoryview(data)[: data.rfind(b"\xff\xd9") + 2 or len(data)]
    place = 2
    while place + 4 <= len(view):
        following, marker = next_segment(data, place), data[place + 1]
        if marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # EE says how colours are coded
            digest.update(view[place:following])
        place = following
    return digest.hexdigest()
