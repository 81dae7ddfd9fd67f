"""Looks at one picture's bytes safely: format, upright size, damage, perceptual hash and simple scores.

Limits are checked on the header, before any pixel is decoded; only formats on the list reach a decoder.
Legend: Y, X pixel rows and columns; C channels.
"""

import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import xxhash
from PIL import Image, UnidentifiedImageError

from data_pipelines.curation_config import CurationConfig, DecodeLimits
from data_pipelines.opt_out import opt_out
from data_pipelines.picture_measures import (
    HASHED_SIDE,
    deviation,
    neighbour_correlation,
    perceptual_hashes,
    sharpness,
)
from data_pipelines.records import Reject

Image.init()  # else a list of formats finds only the five commonest
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked right after the header was read
BOMB_PIXELS_PER_BYTE = 100  # a picture over the pixel limit that packs this tightly was made to hurt
ORIENTATION_TAG = 0x0112
MEASURED_SIDE = 192  # pixels of the shorter side that measures need
WORK_SIDE = 64  # hashes and scores are taken from a reduction to at least this many pixels a side
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
class ImageFacts:
    """What is known about a picture; sizes are upright, after its EXIF orientation."""

    format: str
    width: int
    height: int
    phash: int  # 64 bits
    mirrored_phash: int  # of the same picture with left and right swapped
    pixel_digest: str  # equal for equal pixels, whatever the file around them; of a JPEG for what they are coded as
    miniature: bytes  # 8 x 8 RGB, row by row
    scores: Mapping[str, float] = field(default_factory=dict)
    opt_out: str = ""  # what in its metadata reserves it from training, see `opt_out`


def sniff(data: bytes) -> str | None:
    """The file ending that the first bytes of a picture speak for, None for what is no picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"):
        return ".avif"
    return next((ending for magic, ending in _MAGIC if data.startswith(magic)), None)


def ending_of(data: bytes) -> str:
    return sniff(data) or ".bin"


def inspect(data: bytes, limits: DecodeLimits) -> ImageFacts | Reject:
    """Decode a picture within the limits and measure it, or say why it cannot be used.

    Large JPEGs are measured at a half, quarter or eighth of their size; all their data is decoded for that too, only
    fewer pixels are made of it.
    """
    return _looked_at(data, limits, lambda image, size: _measure(image, size, data), enough=_measured_share)


def decode(data: bytes, limits: DecodeLimits) -> Image.Image | Reject:
    """The whole picture in RGB, upright, or why it cannot be used."""
    return _looked_at(data, limits, lambda image, _: upright(to_rgb(image), orientation(image)).convert("RGB"))


def _measured_share(size: Size) -> float:
    return MEASURED_SIDE / min(size)


def _looked_at(
    data: bytes,
    limits: DecodeLimits,
    look: Callable[[Image.Image, Size], T | Reject],
    *,
    enough: Callable[[Size], float] | None = None,
) -> T | Reject:
    """`look` gets the picture, by a power of two smaller if a share of its size is `enough`, and its whole size."""
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
            size = opened.size
            if enough is not None and (scale := enough(size)) < 1:
                opened.draft(None, (math.ceil(size[0] * scale), math.ceil(size[1] * scale)))  # JPEGs only
            opened.load()
            return look(opened, size)
        except _DECODE_ERRORS as error:
            return _damage(error, data)


def _open(data: bytes, limits: DecodeLimits) -> Image.Image | Reject:
    """The header, checked against the limits."""
    known = sniff(data)
    if _too_many_parts(data, known):
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
    return image


def _too_many_parts(data: bytes, ending: str | None) -> bool:
    """True for a file of so many tiny parts that finding the picture among them would take minutes."""
    limit = MAX_PARTS + len(data) // MIN_PART_BYTES
    if ending == ".gif":  # marks that begin a frame or an extension, which pixels seldom spell
        return data.count(b"\0\x2c") + data.count(b"\0\x21") > limit
    if ending not in (".png", ".jpg"):
        return False
    step, place = (_next_chunk, 8) if ending == ".png" else (_next_segment, 2)
    for _ in range(limit):
        if place + 4 > len(data):
            return False
        place = step(data, place)
    return True


def _next_chunk(data: bytes, place: int) -> int:
    return place + 12 + int.from_bytes(data[place : place + 4], "big")


def _next_segment(data: bytes, place: int) -> int:
    """The place after a segment or a byte of filling; the end of the file once the pixels begin."""
    marker = data[place + 1]
    if data[place] != 0xFF or marker in (0x00, 0xFF):
        return place + 1
    if marker == 0xDA:
        return len(data)
    return place + 2 + (0 if 0xD0 <= marker <= 0xD9 else int.from_bytes(data[place + 2 : place + 4], "big"))


def _frames(image: Image.Image) -> float:
    """Only formats that can move have the attribute; a TIFF would have to be read to its end for it."""
    return 1.0 if image.format in ("TIFF", "MPO") else float(getattr(image, "n_frames", 1))


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
    if sniff(data) == ".webp" and len(data) < int.from_bytes(data[4:8], "little") + 8:
        return Reject(reason="truncated_image", detail="shorter than its header says")
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


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 for none or nonsense."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image, code: int) -> Image.Image:
    return image.transpose(_TRANSPOSE[code]) if code in _TRANSPOSE else image


def thumbnail(data: bytes, side: int, limits: DecodeLimits) -> bytes | None:
    """A small upright JPEG, or None if the picture cannot be read."""
    found = smaller(data, side, 80, limits, resample=Image.Resampling.BOX)
    return None if isinstance(found, Reject) else found.jpeg


@dataclass(frozen=True, kw_only=True)
class Smaller:
    jpeg: bytes
    width: int  # pixels
    height: int


def smaller(
    data: bytes,
    side: int,
    quality: int,
    limits: DecodeLimits,
    *,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Smaller | Reject:
    """The picture upright and at most `side` pixels high and wide, or why it cannot be read.

    A JPEG is decoded at the half, quarter or eighth of its size that is still large enough, which is cheaper.
    """

    def shrink(image: Image.Image, _: Size) -> Smaller:
        small = upright(to_rgb(image), orientation(image))
        small.thumbnail((side, side), resample)
        buffer = io.BytesIO()
        small.convert("RGB").save(buffer, "JPEG", quality=quality)
        return Smaller(jpeg=buffer.getvalue(), width=small.width, height=small.height)

    return _looked_at(data, limits, shrink, enough=lambda size: side / max(size))


def _measure(image: Image.Image, size: Size, data: bytes) -> ImageFacts | Reject:
    code = orientation(image)
    plain = to_rgb(image)
    width, height = size if code < 5 else size[::-1]
    small = upright(plain.reduce(max(1, min(plain.size) // WORK_SIDE)), code)
    whole_grey = small.convert("L")
    hashed = whole_grey.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS)
    grey = whole_grey.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.BOX)
    grey_YX = np.asarray(grey, dtype=np.float32)
    miniature = small.convert("RGB").resize((8, 8), Image.Resampling.BOX).tobytes()
    colours = np.frombuffer(miniature, np.uint8).reshape(64, 3)
    scores = {
        "contrast": round(max(deviation(grey_YX), *map(deviation, colours.T.astype(np.float32))), 3),
        "entropy": round(grey.entropy(), 3),  # bits of the grey histogram, 0..8
        "sharpness": round(sharpness(grey_YX), 3),
        "neighbour_correlation": round(neighbour_correlation(plain), 3),
        "frames": _frames(image),
    }
    phash, mirrored_phash = perceptual_hashes(np.asarray(hashed, dtype=np.float32))
    return ImageFacts(
        format=(image.format or "unknown").lower(),
        width=width,
        height=height,
        phash=phash,
        mirrored_phash=mirrored_phash,
        pixel_digest=_coded_digest(data, code) if image.format in ("JPEG", "MPO") else _pixel_digest(plain, code),
        miniature=miniature,
        scores=scores,
        opt_out=opt_out(image, data),
    )


def _coded_digest(data: bytes, code: int) -> str:
    """Equal for JPEG files of one coded picture, whatever is said around it in comments and application data."""
    digest, view = xxhash.xxh3_128(), memoryview(data)[: data.rfind(b"\xff\xd9") + 2 or len(data)]
    place = 2
    while place + 4 <= len(view):
        following, marker = _next_segment(data, place), data[place + 1]
        if marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # EE says how colours are coded
            digest.update(view[place:following])
        place = following
    return f"coded-{code}-{digest.hexdigest()}"


def _pixel_digest(plain: Image.Image, code: int) -> str:
    """Equal for equal pixels. Not a cryptographic hash: those cost as much as decoding."""
    digest = xxhash.xxh3_128_hexdigest(_pixels(plain))
    return f"{plain.mode}-{plain.width}x{plain.height}-{code}-{digest}"


def _pixels(plain: Image.Image) -> bytes | memoryview:
    """The pixels as they lie in memory; large pictures lie in several pieces, which are copied together."""
    try:
        column = pa.array(plain)
    except ValueError:
        return plain.tobytes()
    return memoryview((column.values if plain.mode == "RGB" else column).buffers()[1])


def judge(facts: ImageFacts, config: CurationConfig) -> Reject | None:
    """What the thresholds say about a picture that could be read."""
    if facts.opt_out and config.respect_opt_out:
        return Reject(reason="opted_out", detail=facts.opt_out)
    short, long = sorted((facts.width, facts.height))
    if long / short > config.max_aspect:
        return Reject(reason="extreme_aspect", detail=f"{facts.width} x {facts.height}, over {config.max_aspect:g} : 1")
    if short < config.min_side:
        return Reject(reason="too_small", detail=f"{facts.width} x {facts.height}, a side is under {config.min_side}")
    scores = facts.scores
    if scores["contrast"] < config.min_contrast:
        return Reject(reason="blank_image", detail=f"contrast {scores['contrast']:g}, under {config.min_contrast:g}")
    if scores["neighbour_correlation"] < config.min_neighbour_correlation:
        detail = f"neighbouring pixels correlate by {scores['neighbour_correlation']:g} only"
        return Reject(reason="noise_image", detail=detail)
    if scores["sharpness"] < config.min_sharpness:
        detail = f"sharpness {scores['sharpness']:g}, under {config.min_sharpness:g}"
        return Reject(reason="low_quality", detail=detail)
    return None
