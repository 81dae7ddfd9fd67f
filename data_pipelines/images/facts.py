"""Measures one image: upright size, digests, perceptual hash and simple scores. No threshold is applied here.

Legend: Y, X pixel rows and columns; N pixels of the miniature; C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from data_pipelines.datasets.records import Reject
from data_pipelines.images.decoding import DecodedImage, Size, decode_within, orientation, pixel_array, upright
from data_pipelines.images.jpegs import coded_data_digest
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.measures import (
    CENTRE_SIDE,
    CORRELATED,
    WORK_SIDE,
    centre_correlation,
    centre_crop,
    contrast,
    neighbour_correlation,
    perceptual_hashes,
    sharpness,
)
from data_pipelines.images.opt_out import opt_out

MEASUREMENT_SIDE = 64  # pixels of the shorter side that measurements need
NOISE_CHECK_SIDE = 128  # pixels of the shorter side at which what looks like noise is checked again


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The measurements of an image; sizes are upright, after its EXIF orientation."""

    format: str
    width: int
    height: int
    phash: int  # 64 bits
    mirrored_phash: int  # of the same image with left and right swapped
    pixel_digest: str  # equal for equal pixels, whatever the file's metadata; of a JPEG, of its coded pixel data
    miniature: bytes  # 8 x 8 RGB, row by row
    scores: Mapping[str, float] = field(default_factory=dict)
    opt_out: str = ""  # the reservation from training in its metadata, see `opt_out`


@dataclass(frozen=True, kw_only=True)
class ReducedImage:
    """The reduced copies of an image that measuring needs, small enough to collect many and measure them together."""

    format: str
    width: int
    height: int
    orientation: int  # of EXIF, 1 to 8
    pixel_digest: str
    miniature: bytes
    frames: float
    opt_out: str
    shrink: int  # the factor by which the decoded sides are smaller than the file's
    grey_YX: npt.NDArray[np.uint8]  # all of it in grey, not turned upright, shorter side under 128 cells
    grey_size: tuple[float, float]  # width and height in cells; the last column and row may be fractions of a cell
    square_YX: npt.NDArray[np.uint8]  # all of it in grey, squeezed to 64 x 64
    entropy: float  # of the square, in bits
    centre_YX: npt.NDArray[np.uint8]  # at most 64 x 64 pixels of its centre, in grey


def measure_image(data: bytes, limits: DecodeLimits) -> ImageFacts | Reject:
    """Decode an image within the limits and measure it, or say why it cannot be used.

    Large JPEGs are measured at a half, quarter or eighth of their size. All their data is decoded even then; only fewer
    pixels are made of it.
    """
    reduced = decode_within(data, limits, reduce_image, needed_share=measurement_share)
    return reduced if isinstance(reduced, Reject) else measure_reduced(reduced, lambda: data, limits)


def measurement_share(size: Size) -> float:
    """The share of each side that measurements need; more than 1 for small images."""
    return MEASUREMENT_SIDE / min(size)


def reduce_image(decoded: DecodedImage) -> ReducedImage:
    """The reduced copies of a decoded image that `measure_reduced` needs."""
    header, code = decoded.header, orientation(decoded.header)
    pixels = decoded.unrotated()
    width, height = decoded.size if code < 5 else decoded.size[::-1]
    factor = max(1, min(pixels.size) // WORK_SIDE)
    reduced = pixels.reduce(factor) if factor > 1 else pixels
    factor *= decoded.shrink
    box = (0, 0, decoded.size[0] / factor, decoded.size[1] / factor)  # the last column and row may cover fewer pixels
    grey = reduced.convert("L")
    square = grey.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.HAMMING, box)
    miniature = upright(reduced.resize((8, 8), Image.Resampling.HAMMING, box, reducing_gap=3.0), code)
    return ReducedImage(
        format=(header.format or "unknown").lower(),
        width=width,
        height=height,
        orientation=code,
        pixel_digest=_pixel_digest(decoded, pixels),
        miniature=miniature.convert("RGB").tobytes(),
        frames=_num_frames(header),
        opt_out=opt_out(header, decoded.data),
        shrink=decoded.shrink,
        grey_YX=np.asarray(grey),
        grey_size=box[2:],
        square_YX=np.asarray(square),
        entropy=square.entropy(),
        centre_YX=np.asarray(centre_crop(pixels, CENTRE_SIDE)),
    )


def measure_reduced(reduced: ReducedImage, read: Callable[[], bytes], limits: DecodeLimits) -> ImageFacts:
    """The measurements of an image. `read` returns its file, which is decoded again if the centre looks like noise."""
    colours_NC = np.frombuffer(reduced.miniature, np.uint8).reshape(64, 3)
    correlation = centre_correlation(reduced.centre_YX, reduced.shrink)
    if correlation < CORRELATED:
        large = decode_within(read(), limits, _correlation, needed_share=lambda size: NOISE_CHECK_SIDE / min(size))
        correlation = max(correlation, large) if isinstance(large, float) else correlation
    phash, mirrored_phash = perceptual_hashes(reduced.grey_YX, reduced.grey_size, reduced.orientation)
    return ImageFacts(
        format=reduced.format,
        width=reduced.width,
        height=reduced.height,
        phash=phash,
        mirrored_phash=mirrored_phash,
        pixel_digest=reduced.pixel_digest,
        miniature=reduced.miniature,
        scores={
            "contrast": round(contrast(reduced.square_YX, colours_NC), 3),
            "entropy": round(reduced.entropy, 3),  # bits of the grey histogram, 0..8
            "sharpness": round(sharpness(reduced.square_YX), 3),
            "neighbour_correlation": round(correlation, 3),
            "frames": reduced.frames,
        },
        opt_out=reduced.opt_out,
    )


def _correlation(decoded: DecodedImage) -> float:
    return neighbour_correlation(decoded.unrotated(), decoded.shrink)


def _pixel_digest(decoded: DecodedImage, pixels: Image.Image) -> str:
    """Equal for equal pixels. Not a cryptographic hash: those cost as much as decoding."""
    code = orientation(decoded.header)
    if decoded.header.format in ("JPEG", "MPO"):
        return f"coded-{code}-{coded_data_digest(decoded.data, decoded.segments)}"
    return f"{pixels.mode}-{pixels.width}x{pixels.height}-{code}-{xxhash.xxh3_128_hexdigest(pixel_array(pixels).data)}"


def _num_frames(image: Image.Image) -> float:
    """Only animated formats have the attribute; a TIFF would have to be read to its end for it."""
    return 1.0 if image.format in ("TIFF", "MPO") else float(getattr(image, "n_frames", 1))
