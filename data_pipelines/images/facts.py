"""What is known about one picture: upright size, digests, perceptual hash and simple scores, and what thresholds say.

Legend: Y, X pixel rows and columns; N pixels of the miniature; C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from data_pipelines.datasets.records import Reject
from data_pipelines.images.decoding import Picture, Size, look_at, orientation, pixels_of, upright
from data_pipelines.images.jpegs import coded_digest
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.measures import (
    CORRELATED,
    NEAR_SIDE,
    WORK_SIDE,
    contrast,
    middle,
    near_correlation,
    neighbour_correlation,
    perceptual_hashes,
    sharpness,
)
from data_pipelines.images.opt_out import opt_out

MEASURED_SIDE = 64  # pixels of the shorter side that measures need
CLEAR_SIDE = 128  # and of what looks like noise


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


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """What is kept of a picture until it is measured: little, so that many are measured together, which is quicker."""

    format: str
    width: int
    height: int
    orientation: int  # of EXIF, 1 to 8
    pixel_digest: str
    miniature: bytes
    frames: float
    opt_out: str
    shrink: int  # how many times larger the file's sides are than those of the pixels that were seen
    whole_YX: npt.NDArray[np.uint8]  # in grey as it lies in the file, less than 128 cells on its shorter side
    whole_size: tuple[float, float]  # width and height in cells, of which the last ones may be parts
    square_YX: npt.NDArray[np.uint8]  # 64 x 64, all of it in grey
    entropy: float  # of these, in bits
    near_YX: npt.NDArray[np.uint8]  # at most 64 x 64 pixels from its middle, in grey


def inspect(data: bytes, limits: DecodeLimits) -> ImageFacts | Reject:
    """Decode a picture within the limits and measure it, or say why it cannot be used.

    Large JPEGs are measured at a half, quarter or eighth of their size; all their data is decoded for that too, only
    fewer pixels are made of it.
    """
    seen = look_at(data, limits, glimpse, enough=measured_share)
    return seen if isinstance(seen, Reject) else measured(seen, lambda: data, limits)


def measured_share(size: Size) -> float:
    """How much of each side measures need; more than 1 for small pictures."""
    return MEASURED_SIDE / min(size)


def glimpse(picture: Picture) -> Glimpse:
    """What measures need of a decoded picture."""
    header, code = picture.header, orientation(picture.header)
    plain = picture.plain()
    width, height = picture.size if code < 5 else picture.size[::-1]
    factor = max(1, min(plain.size) // WORK_SIDE)
    reduced = plain.reduce(factor) if factor > 1 else plain
    factor *= picture.shrink
    box = (0, 0, picture.size[0] / factor, picture.size[1] / factor)  # the last column and row may cover fewer pixels
    whole = reduced.convert("L")
    square = whole.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.HAMMING, box)
    small = upright(reduced.resize((8, 8), Image.Resampling.HAMMING, box, reducing_gap=3.0), code)
    return Glimpse(
        format=(header.format or "unknown").lower(),
        width=width,
        height=height,
        orientation=code,
        pixel_digest=_pixel_digest(picture, plain),
        miniature=small.convert("RGB").tobytes(),
        frames=_frames(header),
        opt_out=opt_out(header, picture.data),
        shrink=picture.shrink,
        whole_YX=np.asarray(whole),
        whole_size=box[2:],
        square_YX=np.asarray(square),
        entropy=square.entropy(),
        near_YX=np.asarray(middle(plain, NEAR_SIDE)),
    )


def measured(seen: Glimpse, read: Callable[[], bytes], limits: DecodeLimits) -> ImageFacts:
    """What is known about a picture; `read` gives its file again: what seems to be noise is looked at more closely."""
    colours_NC = np.frombuffer(seen.miniature, np.uint8).reshape(64, 3)
    correlation = near_correlation(seen.near_YX, seen.shrink)
    if correlation < CORRELATED:
        clear = look_at(read(), limits, _clear_correlation, enough=lambda size: CLEAR_SIDE / min(size))
        correlation = max(correlation, clear) if isinstance(clear, float) else correlation
    phash, mirrored_phash = perceptual_hashes(seen.whole_YX, seen.whole_size, seen.orientation)
    return ImageFacts(
        format=seen.format,
        width=seen.width,
        height=seen.height,
        phash=phash,
        mirrored_phash=mirrored_phash,
        pixel_digest=seen.pixel_digest,
        miniature=seen.miniature,
        scores={
            "contrast": round(contrast(seen.square_YX, colours_NC), 3),
            "entropy": round(seen.entropy, 3),  # bits of the grey histogram, 0..8
            "sharpness": round(sharpness(seen.square_YX), 3),
            "neighbour_correlation": round(correlation, 3),
            "frames": seen.frames,
        },
        opt_out=seen.opt_out,
    )


def _clear_correlation(picture: Picture) -> float:
    return neighbour_correlation(picture.plain(), picture.shrink)


def _pixel_digest(picture: Picture, plain: Image.Image) -> str:
    """Equal for equal pixels. Not a cryptographic hash: those cost as much as decoding."""
    code = orientation(picture.header)
    if picture.header.format in ("JPEG", "MPO"):
        return f"coded-{code}-{coded_digest(picture.data, picture.segments)}"
    return f"{plain.mode}-{plain.width}x{plain.height}-{code}-{xxhash.xxh3_128_hexdigest(pixels_of(plain).data)}"


def _frames(image: Image.Image) -> float:
    """Only formats that can move have the attribute; a TIFF would have to be read to its end for it."""
    return 1.0 if image.format in ("TIFF", "MPO") else float(getattr(image, "n_frames", 1))
