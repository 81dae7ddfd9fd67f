"""Measurements of an image's pixels: perceptual hashes, sharpness, contrast, correlation of neighbours.

Legend: Y, X pixel rows and columns; S steps of grey, the steepest first; F frequencies, the lowest first; N cells;
C channels.
"""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WORK_SIDE = 64  # pixels per side of the square that scores are computed from
FREQUENCIES = 8  # per side of a spectrum, from 0 on
SPECTRUM_SCALE = 1024.0  # the order of magnitude of values in a spectrum
# What JPEG adds to a value. Many values of a drawn image are next to zero, and so is their median: a bit needs more.
SPECTRUM_NOISE = 24.0
SPECTRUM_DECIMALS = 3  # rounding errors are 1e-10, and in 200 photographs no value lay within 0.1 of the median
STEEPEST_STEPS = 40  # of the 8,064 steps between neighbours of a 64 x 64 image
_STEPS_S = np.arange(255, -1, -1)
CENTRE_SIDE = 64  # pixels per side of the centre that is checked for noise
NOISE_CONTRAST = 10.0  # a patch with less contrast is flat and not noise, whatever its correlation
CORRELATED = 0.5  # correlation of neighbouring pixels from which an image is certainly not noise


_FLIP_F = np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0)  # mirroring negates the odd frequencies


@functools.lru_cache(1024)
def _cosines(count: int, length: float) -> npt.NDArray[np.float64]:
    """The lowest frequencies of the cosine transform of `count` cells of width 1 that are cut off at `length`: [F, N].

    Each value is the mean of cos(pi f x / length) over x in the cell, times the cell's share of `length`.
    """
    edges_N = np.minimum(np.arange(count + 1), length) / length
    frequencies_F1 = np.pi * np.arange(1, FREQUENCIES)[:, None]
    waves = np.diff(np.sin(frequencies_F1 * edges_N)) / frequencies_F1
    return np.concatenate([np.diff(edges_N)[None] / math.sqrt(2), waves])


def perceptual_hashes(grey_YX: npt.NDArray[np.uint8], size: tuple[float, float], orientation: int) -> tuple[int, int]:
    """Two 64-bit perceptual hashes of a grey image: upright, and upright with left and right swapped.

    A bit is set if that one of the 64 lowest frequencies is clearly above their median, in which the mean does not
    count. `size`: width and height in pixels; the last column and row may be fractions of a pixel. `orientation`: of
    EXIF, 1 to 8. Symmetrical images have many frequencies that are equal or zero; rounding to a grid keeps them so,
    whatever order a processor adds in.
    """
    width, height = size
    rows_FY, columns_FX = _cosines(grey_YX.shape[0], height), _cosines(grey_YX.shape[1], width)
    spectrum_YX = np.round(SPECTRUM_SCALE * (rows_FY @ grey_YX @ columns_FX.T), SPECTRUM_DECIMALS)
    if orientation >= 5:
        spectrum_YX = spectrum_YX.T
    if orientation in (2, 3, 6, 7):
        spectrum_YX = spectrum_YX * _FLIP_F
    if orientation in (3, 4, 7, 8):
        spectrum_YX = spectrum_YX * _FLIP_F[:, None]
    return _signs(spectrum_YX), _signs(spectrum_YX * _FLIP_F)


def _signs(spectrum_YX: npt.NDArray[np.floating[Any]]) -> int:
    values = spectrum_YX.ravel()
    bits = values > np.partition(values[1:], 31)[31] + SPECTRUM_NOISE  # the median of 63
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def sharpness(grey_YX: npt.NDArray[np.uint8]) -> float:
    """The mean of the steepest steps between neighbours in a 64 x 64 image, relative to its range of greys: 0..1.

    Measured on photographs: 0.35 and more as taken, 0.2 and less after a Gaussian blur of 14 of 400 pixels.
    """
    pairs = (grey_YX[:, 1:], grey_YX[:, :-1]), (grey_YX[1:], grey_YX[:-1])
    steps = np.concatenate([(np.maximum(left, right) - np.minimum(left, right)).ravel() for left, right in pairs])
    counts_S = np.bincount(steps, minlength=256)[::-1]  # the steepest first
    steepest_S = np.diff(np.minimum(np.cumsum(counts_S), STEEPEST_STEPS), prepend=0)
    mean = float(np.dot(steepest_S, _STEPS_S)) / STEEPEST_STEPS
    return min(1.0, mean / max(int(grey_YX.max()) - int(grey_YX.min()), 8))


def contrast(grey_YX: npt.NDArray[np.uint8], colours_NC: npt.NDArray[np.uint8]) -> float:
    """The larger of two standard deviations: of the grey values, and of the colours' most varied channel. 0..127.5."""
    grey_C, channels_C = _variances(grey_YX.reshape(1, -1)), _variances(colours_NC.T)
    return math.sqrt(max(0.0, float(grey_C[0]), float(channels_C.max())))


def _variances(values_CN: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The variance of each channel. The sums are exact: whole numbers far under 2^53 add up the same in any order."""
    fine_CN, count = values_CN.astype(np.float64), values_CN.shape[1]
    means_C = np.add.reduce(fine_CN, axis=1) / count
    squares_C = np.add.reduce(fine_CN * fine_CN, axis=1) / count
    return np.subtract(squares_C, means_C * means_C)


def neighbour_correlation(image: Image.Image, shrink: int = 1) -> float:
    """The correlation of neighbouring grey values in the centre of an image; noise has none at any scale.

    `shrink`: the factor by which the image was shrunk; noise loses as much of its contrast.
    Photographs reach 0.8 and more. Dithered ones, and those with an empty centre, reach it only at a quarter of the
    size, which is measured too.
    """
    fine = centre_correlation(np.asarray(centre_crop(image, CENTRE_SIDE)), shrink)
    if fine >= CORRELATED:
        return fine
    coarse = centre_crop(image, 512).reduce(4)
    if min(coarse.size) < 24:  # so few pixels correlate by chance
        return fine
    return max(fine, _contrast_and_correlation(np.asarray(coarse))[1])


def centre_correlation(centre_YX: npt.NDArray[np.uint8], shrink: int) -> float:
    """As `neighbour_correlation`, of the pixels of the centre alone; 1 where it is too small or flat to be noise."""
    if min(centre_YX.shape) < 3:
        return 1.0
    contrast, correlation = _contrast_and_correlation(centre_YX)
    return 1.0 if contrast < NOISE_CONTRAST / shrink else correlation


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """The centre of an image, at most `side` x `side` pixels, in grey."""
    left, top = max(0, (image.width - side) // 2), max(0, (image.height - side) // 2)
    return image.crop((left, top, min(image.width, left + side), min(image.height, top + side))).convert("L")


def _contrast_and_correlation(grey_YX: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """The standard deviation, and the correlation of neighbours, 0 if all values are equal.

    The correlation is the higher one of both directions, as stripes correlate along the stripes only.
    """
    height, width = grey_YX.shape
    centred_YX = grey_YX - np.float32(np.add.reduce(grey_YX, axis=None, dtype=np.int64) / grey_YX.size)
    flat = centred_YX.ravel()
    variance = float(np.dot(flat, flat)) / len(flat)
    if variance == 0 or min(height, width) < 2:
        return math.sqrt(variance), 0.0
    wrapped = np.dot(centred_YX[:-1, -1], centred_YX[1:, 0])  # pairs of a row's end and the next row's start
    across = (np.dot(flat[:-1], flat[1:]) - wrapped) / (height * (width - 1))
    down = np.dot(flat[:-width], flat[width:]) / ((height - 1) * width)
    return math.sqrt(variance), float(max(across, down)) / variance
