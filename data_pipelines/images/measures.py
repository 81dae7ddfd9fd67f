"""What the pixels of a picture say: perceptual hashes, sharpness, whether neighbours are alike.

Legend: Y, X pixel rows and columns; S steps of grey, the steepest first; F frequencies,
the lowest first.
"""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WORK_SIDE = 64  # pixels a side of what scores are taken from
FREQUENCIES = 8  # a side of a spectrum, from 0 on
SPECTRUM_SCALE = 1024.0  # the order of values in a spectrum
SPECTRUM_NOISE = 24.0  # what JPEG adds to a value: drawn pictures have many that are next to nothing, so to the median
SPECTRUM_DECIMALS = 3  # noise is 1e-10, and in 200 photographs no value lay within 0.1 of the median
STEEPEST_STEPS = 40  # of the 8,064 steps between neighbours of a 64 x 64 picture
_STEPS_S = np.arange(255, -1, -1)
NEAR_SIDE = 64  # pixels of the middle that are looked at for noise
NOISE_CONTRAST = 10.0  # a flat patch is not noise, however its grains relate
CORRELATED = 0.5  # between neighbouring pixels: surely no noise


_FLIP_F = np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0)  # one end for the other negates the odd frequencies


@functools.lru_cache(1024)
def _cosines(count: int, length: float) -> npt.NDArray[np.float64]:
    """The lowest frequencies of the cosine transform of `count` cells of width 1 that are cut off at `length`: [F, N].

    The mean of cos(pi f x / length) over x in each cell, by the cell's share of the whole.
    """
    edges_N = np.minimum(np.arange(count + 1), length) / length
    frequencies_F1 = np.pi * np.arange(1, FREQUENCIES)[:, None]
    waves = np.diff(np.sin(frequencies_F1 * edges_N)) / frequencies_F1
    return np.concatenate([np.diff(edges_N)[None] / math.sqrt(2), waves])


def perceptual_hashes(grey_YX: npt.NDArray[np.uint8], size: tuple[float, float], orientation: int) -> tuple[int, int]:
    """Which of the 64 lowest frequencies of a grey picture are clearly above their median, that of the mean aside.

    `size`: width and height in pixels, of which the last column and row may be a part. `orientation`: of EXIF, 1 to 8;
    the hash is that of the picture upright.
    The second is what the picture has with left and right swapped. Symmetrical pictures have many frequencies that are
    equal or zero; on a grid they stay so, whatever order a processor adds in.
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
    """The steepest steps between neighbours in a 64-pixel picture over its range of greys, 0..1.

    Measured on photographs: 0.35 and more as taken, 0.2 and less after a Gaussian blur of 14 of 400 pixels.
    """
    pairs = (grey_YX[:, 1:], grey_YX[:, :-1]), (grey_YX[1:], grey_YX[:-1])
    steps = np.concatenate([(np.maximum(one, other) - np.minimum(one, other)).ravel() for one, other in pairs])
    counts_S = np.bincount(steps, minlength=256)[::-1]  # of the steepest first
    steepest_S = np.diff(np.minimum(np.cumsum(counts_S), STEEPEST_STEPS), prepend=0)
    mean = float(np.dot(steepest_S, _STEPS_S)) / STEEPEST_STEPS
    return min(1.0, mean / max(int(grey_YX.max()) - int(grey_YX.min()), 8))


def contrast(grey_YX: npt.NDArray[np.uint8], colours_NC: npt.NDArray[np.uint8]) -> float:
    """Standard deviation of the grey values, or of the channel of a few colours in which they differ most, 0..127.5."""
    grey_C, channels_C = _variances(grey_YX.reshape(1, -1)), _variances(colours_NC.T)
    return math.sqrt(max(0.0, float(grey_C[0]), float(channels_C.max())))


def _variances(values_CN: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Exact but for the last step: whole numbers far under 2^53 add up the same in any order."""
    fine_CN, count = values_CN.astype(np.float64), values_CN.shape[1]
    means_C = np.add.reduce(fine_CN, axis=1) / count
    squares_C = np.add.reduce(fine_CN * fine_CN, axis=1) / count
    return np.subtract(squares_C, means_C * means_C)


def neighbour_correlation(plain: Image.Image, shrink: int = 1) -> float:
    """Of neighbouring grey values in the middle of the picture; noise has none, however far it is looked at from.

    `shrink`: how much larger the picture was before; noise loses as much of its contrast.
    Photographs reach 0.8 and more; dithered ones, and those with an empty middle, when their pixels are put together.
    """
    near = near_correlation(np.asarray(middle(plain, NEAR_SIDE)), shrink)
    if near >= CORRELATED:
        return near
    far = middle(plain, 512).reduce(4)
    if min(far.size) < 24:  # chance correlates so few pixels
        return near
    return max(near, _contrast_and_correlation(np.asarray(far))[1])


def near_correlation(near_YX: npt.NDArray[np.uint8], shrink: int) -> float:
    """The same for the pixels of the middle as they are; 1 where there is nothing that could be noise."""
    if min(near_YX.shape) < 3:
        return 1.0
    contrast, correlation = _contrast_and_correlation(near_YX)
    return 1.0 if contrast < NOISE_CONTRAST / shrink else correlation


def middle(plain: Image.Image, side: int) -> Image.Image:
    """At most `side` pixels of each side, as grey values."""
    left, top = max(0, (plain.width - side) // 2), max(0, (plain.height - side) // 2)
    return plain.crop((left, top, min(plain.width, left + side), min(plain.height, top + side))).convert("L")


def _contrast_and_correlation(grey_YX: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Standard deviation, and how neighbours correlate along the better of both directions; 0 if all is equal.

    The better one, as stripes correlate along the stripes only.
    """
    height, width = grey_YX.shape
    centred_YX = grey_YX - np.float32(np.add.reduce(grey_YX, axis=None, dtype=np.int64) / grey_YX.size)
    flat = centred_YX.ravel()
    variance = float(np.dot(flat, flat)) / len(flat)
    if variance == 0 or min(height, width) < 2:
        return math.sqrt(variance), 0.0
    beyond = np.dot(centred_YX[:-1, -1], centred_YX[1:, 0])  # row by row, the end of one meets the start of the next
    across = (np.dot(flat[:-1], flat[1:]) - beyond) / (height * (width - 1))
    down = np.dot(flat[:-width], flat[width:]) / ((height - 1) * width)
    return math.sqrt(variance), float(max(across, down)) / variance
