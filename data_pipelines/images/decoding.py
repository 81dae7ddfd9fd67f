"""Opens and decodes one picture's bytes safely, or says why they cannot be used.

Limits are checked on the header, before any pixel is decoded; only formats on the list reach a decoder.

Legend: Y, X pixel rows and columns; C channels.
"""

import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from data_pipelines.datasets.records import Reject
from data_pipelines.images.jpegs import Segment, segments, sound_jpeg
from data_pipelines.images.limits import DecodeLimits

Image.init()  # else a list of formats finds only the five commonest
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked right after the header was read
BOMB_PIXELS_PER_BYTE = 100  # a picture over the pixel limit that packs this tightly was made to hurt
ORIENTATION_TAG = 0x0112
JPEG2000_END = b"\xff\xd9"  # which stands nowhere else in a codestream
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAGIC = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"\x00\x00\x00\x0cjP  ", ".jp2"),
    (b"\xff\x4f\xff\x51", ".j2k"),
    (b"\xff\x4f\xff\x51", ".j2k"),
)
# Headers of pictures that are none of the formats we decode; they are told from what is no picture at all.
_FOREIGN = re.compile(
    rb"(?s).{4}ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)|\xff\x0a|\x00\x00\x00\x0cJXL "
    rb"|8BPS|\x00\x00\x01\x00|P[1-6]\s|%!PS"
)
MAX_PARTS = 10_000  # chunks, segments or frames of a file that may be smaller than this on average:
MIN_PART_BYTES = 256
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, LookupError, ArithmeticError,
                  TypeError, RuntimeError, MemoryError, AttributeError, AssertionError,
                  Image.DecompressionBombError)  # fmt: skip


T = TypeVar("T")
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture, which may be smaller than the file's."""

    data: bytes  # the file
    segments: Sequence[Segment]  # of a JPEG
    header: Image.Image  # the picture as it was opened, for its metadata
    pixels: Image.Image
    size: Size  # of the file, before its orientation

    @property
    def shrink(self) -> int:
        """How many times larger the file's sides are."""
        return round(self.size[0] / self.pixels.width)

    def plain(self) -> Image.Image:
        """L, RGB or RGBX, copied only if it has to be."""
        return self.pixels if self.pixels.mode == "RGBX" else to_rgb(self.pixels)

    def upright(self) -> Image.Image:
        """RGB or L."""
        return upright(to_rgb(self.pixels), orientation(self.header))


def sniff(data: bytes) -> str | None:
    """The file ending that the first bytes of a picture speak for, None for what is no picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"):
        return ".avif"
    return next((ending for magic, ending in _MAGIC if data.startswith(magic)), None)


def ending_of(data: bytes) -> str:
    return sniff(data) or ".bin"


def decode(data: bytes, limits: DecodeLimits) -> Image.Image | Reject:
    """The whole picture in RGB, upright, or why it cannot be used."""
    return look_at(data, limits, lambda picture: picture.upright().convert("RGB"))


def look_at(
    data: bytes,
    limits: DecodeLimits,
    look: Callable[[Picture], T | Reject],
    *,
    enough: Callable[[Size], float] = lambda _: 1.0,
) -> T | Reject:
    """What `look` sees; a JPEG is by a power of two smaller if that leaves the share of its size that is `enough`."""
    if not data:
        return Reject(reason="zero_byte", detail="the file is empty")
    if len(data) > limits.max_file_bytes:
        return Reject(reason="too_large", detail=f"{len(data)} bytes, at most {limits.max_file_bytes}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata; what matters raises
        opened = _open(data, limits)
        if isinstance(opened, Reject):
            return opened
        try:
            image, parts = opened
            return look(_decoded(data, parts, image, min(1.0, enough(image.size))))
        except _DECODE_ERRORS as error:
            return _damage(error, data)


def _decoded(data: bytes, parts: Sequence[Segment], opened: Image.Image, share: float) -> Picture:
    size = opened.size
    wanted = math.ceil(size[0] * share), math.ceil(size[1] * share)
    pixels = sound_jpeg(data, opened, wanted)
    if pixels is None:
        opened.draft(None, wanted)  # of JPEGs only
        opened.load()
    return Picture(data=data, segments=parts, header=opened, pixels=pixels or opened, size=size)


def _open(data: bytes, limits: DecodeLimits) -> tuple[Image.Image, Sequence[Segment]] | Reject:
    """The header, checked against the limits, and the segments of a JPEG."""
    known = sniff(data)
    most = MAX_PARTS + len(data) // MIN_PART_BYTES
    parts = segments(data, most) if known == ".jpg" else []
    if len(parts) == most or _too_many_parts(data, known, most):
        return Reject(
            reason="decompression_bomb", detail=f"{len(data)} bytes of tiny parts, which take minutes to read"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except UnidentifiedImageError:
        if known is None and _FOREIGN.match(data):
            return Reject(reason="format_not_allowed", detail=f"a picture of another format, begins with {data[:16]!r}")
        if known is None:
            return Reject(reason="not_an_image", detail=f"begins with {data[:16]!r}")
        return _unopened(data, known)
    except _DECODE_ERRORS as error:
        return _damage(error, data)
    width, height = image.size
    pixels = width * height
    if pixels > limits.max_pixels:
        tight = pixels > BOMB_PIXELS_PER_BYTE * len(data)
        detail = f"{width} x {height} pixels in {len(data)} bytes, at most {limits.max_pixels} pixels"
        return Reject(reason="decompression_bomb" if tight else "too_large", detail=detail)
    return image, parts


def _too_many_parts(data: bytes, ending: str | None, most: int) -> bool:
    """True for a file of so many tiny parts that finding the picture among them would take minutes."""
    if ending == ".gif":  # marks that begin a frame or an extension, which pixels seldom spell
        return data.count(b"\0\x2c") + data.count(b"\0\x21") > most
    place = 8
    for _ in range(most if ending == ".png" else 0):
        if place + 4 > len(data):
            return False
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return ending == ".png"


def _unopened(data: bytes, ending: str) -> Reject:
    """A known kind of picture whose header no allowed decoder takes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Reject(reason="format_not_allowed", detail=f"a picture of the format {image.format}")
    except _DECODE_ERRORS:
        return Reject(reason="truncated_image", detail=f"begins like a {ending[1:]} file but its header is not whole")


def _damage(error: BaseException, data: bytes) -> Reject:
    text = str(error).split(" at 0x")[0][:150]
    if (
        "too large" in text.lower()
        or "too much memory" in text.lower()
        or isinstance(error, MemoryError | Image.DecompressionBombError)
    ):
        return Reject(reason="decompression_bomb", detail=f"a part of the file unpacks to too much: {text}")
    if "truncated" in text.lower() or "unexpected end" in text.lower() or isinstance(error, EOFError | struct.error):
        return Reject(reason="truncated_image", detail=text)
    ending = sniff(data)
    if ending == ".webp" and len(data) < int.from_bytes(data[4:8], "little") + 8:
        return Reject(reason="truncated_image", detail="shorter than its header says")
    if ending in (".jp2", ".j2k") and JPEG2000_END not in data:
        return Reject(reason="truncated_image", detail="the mark that ends a JPEG 2000 picture is missing")
    return Reject(reason="corrupt_image", detail=f"{type(error).__name__}: {text}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB (or L for grey); transparent parts become white, 16 bits keep their range."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        ground.alpha_composite(layer)
        return ground.convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 257 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode == "1" else "RGB")


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of a picture in L, RGB or RGBX as they lie in memory, not to be written: [Y, X, 1 or 4]."""
    try:
        column = pa.array(image)
    except ValueError:  # a large picture lies in several pieces
        rows_YXC = np.asarray(image).reshape(image.height, image.width, -1)
        filling_YXC = np.full((image.height, image.width, 1), 255, np.uint8)
        return np.concatenate([rows_YXC, filling_YXC], axis=2) if image.mode == "RGB" else rows_YXC
    values = column.buffers()[1] if image.mode == "L" else column.values.buffers()[1]
    return np.frombuffer(values, np.uint8).reshape(image.height, image.width, -1)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 for none or nonsense."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image, code: int) -> Image.Image:
    return image.transpose(_TRANSPOSE[code]) if code in _TRANSPOSE else image
