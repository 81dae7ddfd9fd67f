"""What is known about one picture: upright size, digests, perceptual hash and simple scores, and what thresholds say.

Legend: Y, X pixel rows and columns; N pixels of the miniature; C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import xxhash
from PIL import Image

from data_pipelines.curation_config import CurationConfig, DecodeLimits
from data_pipelines.images import Picture, Size, look_at, orientation, to_rgb, upright
from data_pipelines.jpegs import coded_digest
from data_pipelines.opt_out import opt_out
from data_pipelines.picture_measures import (
    CORRELATED,
    WORK_SIDE,
    contrast,
    neighbour_correlation,
    perceptual_hashes,
    sharpness,
)
from data_pipelines.records import Reject

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


def inspect(data: bytes, limits: DecodeLimits) -> ImageFacts | Reject:
    """Decode a picture within the limits and measure it, or say why it cannot be used.

    Large JPEGs are measured at a half, quarter or eighth of their size; all their data is decoded for that too, only
    fewer pixels are made of it.
    """
    return look_at(data, limits, measured, enough=measured_share)


def measured_share(size: Size) -> float:
    """How much of each side measures need; more than 1 for small pictures."""
    return MEASURED_SIDE / min(size)


def measured(picture: Picture) -> ImageFacts:
    """What is known about a decoded picture."""
    header, code = picture.header, orientation(picture.header)
    plain = _plain(picture)
    width, height = picture.size if code < 5 else picture.size[::-1]
    factor = max(1, min(plain.size) // WORK_SIDE)
    reduced = plain.reduce(factor)
    factor *= picture.shrink
    box = (0, 0, picture.size[0] / factor, picture.size[1] / factor)  # the last column and row may cover fewer pixels
    whole_grey = reduced.convert("L")
    grey = whole_grey.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.HAMMING, box)
    small = upright(reduced.resize((8, 8), Image.Resampling.HAMMING, box, reducing_gap=3.0), code)
    grey_YX = np.asarray(grey)
    fine_YX = grey_YX.astype(np.float32)
    miniature = small.convert("RGB").tobytes()
    colours_NC = np.frombuffer(miniature, np.uint8).reshape(64, 3)
    scores = {
        "contrast": round(contrast(fine_YX, colours_NC), 3),
        "entropy": round(grey.entropy(), 3),  # bits of the grey histogram, 0..8
        "sharpness": round(sharpness(grey_YX), 3),
        "neighbour_correlation": round(_correlation(picture, plain), 3),
        "frames": _frames(header),
    }
    phash, mirrored_phash = perceptual_hashes(np.asarray(whole_grey), box[2:], code)
    return ImageFacts(
        format=(header.format or "unknown").lower(),
        width=width,
        height=height,
        phash=phash,
        mirrored_phash=mirrored_phash,
        pixel_digest=_pixel_digest(picture, plain),
        miniature=miniature,
        scores=scores,
        opt_out=opt_out(header, picture.data),
    )


def _plain(picture: Picture) -> Image.Image:
    """RGB, L or RGBX, as few pixels copied as can be."""
    return picture.pixels if picture.pixels.mode == "RGBX" else to_rgb(picture.pixels)


def _correlation(picture: Picture, plain: Image.Image) -> float:
    """Of neighbouring pixels; what seems to be noise is looked at again from nearer."""
    found = neighbour_correlation(plain, picture.shrink)
    if found >= CORRELATED or picture.shrink == 1:
        return found
    clear = picture.clearer(CLEAR_SIDE)
    return max(found, neighbour_correlation(_plain(clear), clear.shrink))


def _pixel_digest(picture: Picture, plain: Image.Image) -> str:
    """Equal for equal pixels. Not a cryptographic hash: those cost as much as decoding."""
    code = orientation(picture.header)
    if picture.header.format in ("JPEG", "MPO"):
        return f"coded-{code}-{coded_digest(picture.data, picture.segments)}"
    return f"{plain.mode}-{plain.width}x{plain.height}-{code}-{xxhash.xxh3_128_hexdigest(_pixels(plain))}"


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
    if scores["neighbour_correlation"] < config.min_neighbour_correlation:
        detail = f"neighbouring pixels correlate by {scores['neighbour_correlation']:g} only"
        return Reject(reason="noise_image", detail=detail)  # which from far away is blank, and so comes first
    if scores["contrast"] < config.min_contrast:
        return Reject(reason="blank_image", detail=f"contrast {scores['contrast']:g}, under {config.min_contrast:g}")
    if scores["sharpness"] < config.min_sharpness:
        detail = f"sharpness {scores['sharpness']:g}, under {config.min_sharpness:g}"
        return Reject(reason="low_quality", detail=detail)
    return None


def _frames(image: Image.Image) -> float:
    """Only formats that can move have the attribute; a TIFF would have to be read to its end for it."""
    return 1.0 if image.format in ("TIFF", "MPO") else float(getattr(image, "n_frames", 1))
