"""Decodes the bytes of one image within limits, or returns the reason why they cannot be used.

Limits are checked on the header, before any pixel is decoded; only the allowed formats reach a decoder.

Legend: Y, X pixel rows and columns; C channels.
"""

import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from data_pipelines.datasets.records import Reject
from data_pipelines.images.jpegs import Segment, decode_jpeg, segments
from data_pipelines.images.limits import OTHER_FORMATS, DecodeLimits
from data_pipelines.images.png_chunks import MAX_TEXT_BYTES, without_side_chunks

Image.init()  # else a list of formats finds only the five commonest
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_BYTES
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked right after the header is read
BOMB_PIXELS_PER_BYTE = 100  # an image over the pixel limit with more pixels per byte than this is a decompression bomb
ORIENTATION_TAG = 0x0112
JPEG2000_END = b"\xff\xd9"  # occurs nowhere else in a codestream
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
)
# Headers of image formats that we do not decode, to tell such a file from one that is no image at all.
_FOREIGN = re.compile(
    rb"(?s).{4}ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)|\xff\x0a|\x00\x00\x00\x0cJXL "
    rb"|8BPS|\x00\x00\x01\x00|P[1-6]\s|%!PS|(?:\xef\xbb\xbf)?\s*<(?:svg\b|(?:\?xml|!--|!DOCTYPE svg).{0,2000}<svg\b)"
)
# What is often found in place of an image, and what to do about it.
_STAND_INS = (
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS and not its file; run git lfs pull"),
    (re.compile(rb"(?i)\s*<(?:!doctype )?html"), "a web page, as failed downloads leave it"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "compressed; unpack it"),
    (re.compile(rb"PK\x03\x04"), "a zip archive; unpack it"),
)
SIDE_CHUNK_REASONS = ("corrupt_image", "truncated_image", "decompression_bomb")  # which damage beside pixels may cause
MAX_PARTS = 10_000  # chunks, segments or frames of a file, plus one for every MIN_PART_BYTES of it
MIN_PART_BYTES = 256
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, LookupError, ArithmeticError,
                  TypeError, RuntimeError, MemoryError, AttributeError, AssertionError,
                  Image.DecompressionBombError)  # fmt: skip


T = TypeVar("T")
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image, possibly at a reduced size."""

    data: bytes  # the file
    segments: Sequence[Segment]  # of a JPEG
    header: Image.Image  # the image as it was opened, for its metadata
    pixels: Image.Image
    size: Size  # of the file, before its orientation is applied

    @property
    def shrink(self) -> int:
        """The factor by which the decoded sides are smaller than the file's."""
        return round(self.size[0] / self.pixels.width)

    def unrotated(self) -> Image.Image:
        """The pixels in the file's own orientation, mode L, RGB or RGBX; a copy only where the mode is converted."""
        return self.pixels if self.pixels.mode == "RGBX" else to_rgb(self.pixels)

    def upright(self) -> Image.Image:
        """The pixels after the EXIF orientation, mode L or RGB."""
        return upright(to_rgb(self.pixels), orientation(self.header))


def sniff(data: bytes) -> str | None:
    """The file ending that the first bytes indicate, None if they are those of no known image format."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"):
        return ".avif"
    return next((ending for magic, ending in _MAGIC if data.startswith(magic)), None)


def file_ending(data: bytes) -> str:
    """As `sniff`, ".bin" for an unknown format."""
    return sniff(data) or ".bin"


def decode(data: bytes, limits: DecodeLimits) -> Image.Image | Reject:
    """The image at full size in RGB, upright, or why it cannot be used."""
    return decode_within(data, limits, lambda decoded: decoded.upright().convert("RGB"))


def decode_within(
    data: bytes,
    limits: DecodeLimits,
    convert: Callable[[DecodedImage], T | Reject],
    *,
    needed_share: Callable[[Size], float] = lambda _: 1.0,
) -> T | Reject:
    """The result of `convert` on the image decoded within `limits`, or why it cannot be used.

    A JPEG is decoded at a half, quarter or eighth of its size where its sides keep at least the `needed_share` of the
    file's size. A decoding error that `convert` raises is a `Reject` too.
    """
    if not data:
        return Reject(reason="zero_byte", detail="the file is empty")
    if len(data) > limits.max_file_bytes:
        return Reject(reason="too_large", detail=f"{len(data)} bytes, at most {limits.max_file_bytes}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern metadata; what matters raises
        found = _converted(data, data, limits, convert, needed_share)
        if isinstance(found, Reject) and found.reason in SIDE_CHUNK_REASONS:
            needed = without_side_chunks(data)  # what is wrong beside the pixels does not decide over them
            if len(needed) < len(data):
                again = _converted(needed, data, limits, convert, needed_share)
                return found if isinstance(again, Reject) else again
        return found


def _converted(
    decoded: bytes,
    data: bytes,
    limits: DecodeLimits,
    convert: Callable[[DecodedImage], T | Reject],
    needed_share: Callable[[Size], float],
) -> T | Reject:
    """The result of `convert` on the image in `decoded`, which are the bytes of the file `data` or the needed ones."""
    opened = _open_header(decoded, limits)
    if isinstance(opened, Reject):
        return opened
    try:
        image, parts = opened
        pixels = _decode_pixels(decoded, parts, image, min(1.0, needed_share(image.size)))
        return convert(replace(pixels, data=data))
    except _DECODE_ERRORS as error:
        return _reject_damage(error, decoded)


def _decode_pixels(data: bytes, parts: Sequence[Segment], opened: Image.Image, share: float) -> DecodedImage:
    size = opened.size
    min_size = math.ceil(size[0] * share), math.ceil(size[1] * share)
    pixels = decode_jpeg(data, opened, min_size)
    if pixels is None:
        opened.draft(None, min_size)  # has an effect on JPEGs only
        opened.load()
    return DecodedImage(data=data, segments=parts, header=opened, pixels=pixels or opened, size=size)


def _open_header(data: bytes, limits: DecodeLimits) -> tuple[Image.Image, Sequence[Segment]] | Reject:
    """The opened image, its header checked against the limits, and the segments of a JPEG."""
    ending = sniff(data)
    max_parts = MAX_PARTS + len(data) // MIN_PART_BYTES
    parts = segments(data, max_parts) if ending == ".jpg" else []
    if len(parts) == max_parts or _has_too_many_parts(data, ending, max_parts):
        return Reject(
            reason="decompression_bomb", detail=f"{len(data)} bytes of tiny parts, which take minutes to read"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except UnidentifiedImageError:
        return _reject_unopened(data, ending) if ending else _reject_unknown(data, limits)
    except _DECODE_ERRORS as error:
        return _reject_damage(error, data)
    width, height = image.size
    pixels = width * height
    if pixels > limits.max_pixels:
        is_bomb = pixels > BOMB_PIXELS_PER_BYTE * len(data)
        detail = f"{width} x {height} pixels in {len(data)} bytes, at most {limits.max_pixels} pixels"
        return Reject(reason="decompression_bomb" if is_bomb else "too_large", detail=detail)
    return image, parts


def _has_too_many_parts(data: bytes, ending: str | None, max_parts: int) -> bool:
    """True for a file of so many tiny parts that finding the image among them would take minutes."""
    if ending == ".gif":  # bytes that begin a frame or an extension and are rare among coded pixels
        return data.count(b"\0\x2c") + data.count(b"\0\x21") > max_parts
    offset = 8
    for _ in range(max_parts if ending == ".png" else 0):
        if offset + 4 > len(data):
            return False
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    return ending == ".png"


def _reject_unopened(data: bytes, ending: str) -> Reject:
    """The reason for a file of a known format whose header no allowed decoder accepts."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Reject(reason="format_not_allowed", detail=f"a picture of the format {image.format}")
    except _DECODE_ERRORS:
        return Reject(reason="truncated_image", detail=f"begins like a {ending[1:]} file but its header is not whole")


def _reject_unknown(data: bytes, limits: DecodeLimits) -> Reject:
    """The reason for a file of no allowed format: another format that could be allowed, or none at all."""
    if _FOREIGN.match(data):
        return Reject(reason="format_not_allowed", detail=f"a picture of another format, begins with {data[:16]!r}")
    others = [name for name in OTHER_FORMATS if name not in limits.formats]
    try:
        with Image.open(io.BytesIO(data), formats=others) as image:
            if image.width * image.height <= limits.max_pixels:
                image.load()  # some formats have no mark: only a whole image proves itself
                return Reject(
                    reason="format_not_allowed",
                    detail=f"a picture of the format {image.format}; `formats` of the stage curate can allow it",
                )
    except _DECODE_ERRORS:
        pass  # none of these formats either
    hint = next((f": {hint}" for start, hint in _STAND_INS if start.match(data)), "")
    return Reject(reason="not_an_image", detail=f"begins with {data[:16]!r}{hint}")


def _reject_damage(error: BaseException, data: bytes) -> Reject:
    """The reason for a file whose decoder raised `error`."""
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
    """The image in mode RGB, or L for grey; transparent parts become white, other ranges are scaled to 8 bits."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        background.alpha_composite(layer)
        return background.convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 257 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray((values * 255 if values.max(initial=0) <= 1 else values).clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode == "1" else "RGB")


def pixel_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of an image in mode L, RGB or RGBX: [Y, X, 1 or 4]. A view of Pillow's memory: do not write to it."""
    try:
        column = pa.array(image)
    except ValueError:  # Pillow keeps a large image in several blocks of memory
        rows_YXC = np.asarray(image).reshape(image.height, image.width, -1)
        padding_YXC = np.full((image.height, image.width, 1), 255, np.uint8)
        return np.concatenate([rows_YXC, padding_YXC], axis=2) if image.mode == "RGB" else rows_YXC
    values = column.buffers()[1] if image.mode == "L" else column.values.buffers()[1]
    return np.frombuffer(values, np.uint8).reshape(image.height, image.width, -1)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or invalid."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image, code: int) -> Image.Image:
    """The image turned as the EXIF orientation `code` says; the same object if it needs no turn."""
    return image.transpose(_TRANSPOSE[code]) if code in _TRANSPOSE else image
