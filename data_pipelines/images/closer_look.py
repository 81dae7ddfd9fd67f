"""Looks closely at two images that a hash calls similar, for what a hash cannot see: writing is a few pixels wide.

One of both is laid over the other, also after it was resized or slightly cropped, and the edges that are in one of
them only are counted window by window. Copies differ in the noise of a codec; other words, digits or boxes differ in
whole strokes.

Legend: Y, X pixel rows and columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

LOOK_SIDE = 1024  # pixels of the longer side at which two images are compared
COARSE_SIDE = 160  # at which one is laid over the other at first
SCALES = tuple(1 + step / 100 for step in (0, *(sign * n for n in range(1, 13) for sign in (-1, 1))))
BLUR_RADIUS = 6  # pixels; an edge is what differs from its surroundings
STRONG, WEAK = 40, 14  # of 255: an edge of one image, and what is enough of it in the other
WINDOW = 16  # pixels
MAX_UNMATCHED = 0.07  # of a window's pixels: strokes that the other image does not have there
MAX_LOST_WINDOWS = 0.5  # of the windows with edges, where one image already lies over the other
BLOCKS = 3  # per side, for a finer fit
MAX_SHIFT = 12  # pixels, of a block

Pixels = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Where a point of the first image lies in the second: scale * (x, y) + shift."""

    scale_x: float
    scale_y: float
    shift_x: float = 0.0
    shift_y: float = 0.0


def show_the_same(first: Image.Image, second: Image.Image, *, cropped: bool = True) -> bool:
    """Whether two grey images, upright, show the same, up to codec and size, and a slight crop if `cropped`."""
    side = min(LOOK_SIDE, max(first.size), max(second.size))
    first = _reduced(first, side)
    frame = _Fit(scale_x=second.width / first.width, scale_y=second.height / first.height)
    lost, drawn = _lost_and_drawn(first, second, frame)
    if lost.max() <= MAX_UNMATCHED:
        return True
    is_registered = (lost > MAX_UNMATCHED).sum() < MAX_LOST_WINDOWS * (drawn > 0).sum()
    if not cropped or is_registered:  # most of it lies where it lies in the other: what differs is no matter of a crop
        return False
    coarse = _coarse_fit(first, second, frame)
    for fit in (_finer_fit(first, second, frame), _finer_fit(first, second, coarse)):
        for refined in (fit, _finer_fit(first, second, fit)):
            if _unmatched(first, second, refined) <= MAX_UNMATCHED:
                return True
    return False


def _reduced(image: Image.Image, side: int) -> Image.Image:
    share = side / max(image.size)
    if share >= 1:
        return image
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BOX)


def _laid_over(first: Image.Image, second: Image.Image, fit: _Fit) -> Image.Image:
    """The second image resampled so that its points lie where they lie in the first; 0 where it has none."""
    share = min(1.0, 1 / fit.scale_x, 1 / fit.scale_y)
    size = max(1, round(second.width * share)), max(1, round(second.height * share))
    small = second.resize(size, Image.Resampling.BOX)
    by_x, by_y = small.width / second.width, small.height / second.height
    matrix = (fit.scale_x * by_x, 0, fit.shift_x * by_x, 0, fit.scale_y * by_y, fit.shift_y * by_y)
    return small.transform(first.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _edges(image: Image.Image) -> Pixels:
    blurred = image.filter(ImageFilter.BoxBlur(BLUR_RADIUS))
    return np.asarray(image, np.float32) - np.asarray(blurred, np.float32)


def _unmatched(first: Image.Image, second: Image.Image, fit: _Fit) -> float:
    """The largest share of a window's pixels that are strokes of one image and not of the other."""
    return float(_lost_and_drawn(first, second, fit)[0].max())


def _lost_and_drawn(first: Image.Image, second: Image.Image, fit: _Fit) -> tuple[Numbers, Numbers]:
    """For each window the share of its pixels that are strokes of one image only, and that are strokes of any."""
    over = _laid_over(first, second, fit)
    inside = _inside(first, second, fit)
    one, other = _edges(first), _edges(over)
    lost = (_lost(one, other) | _lost(other, one)) & inside
    drawn = ((np.abs(one) > STRONG) | (np.abs(other) > STRONG)) & inside
    return _window_shares(lost), _window_shares(drawn)


def _window_shares(found: npt.NDArray[np.bool_]) -> Numbers:
    """The share of each window that is set; windows overlap by a half."""
    padded = np.pad(found, [(0, -length % WINDOW + WINDOW // 2) for length in found.shape])
    rows, columns = ((length - WINDOW // 2) // WINDOW for length in padded.shape)
    starts = [(top, left) for top in (0, WINDOW // 2) for left in (0, WINDOW // 2)]
    parts = [padded[top : top + rows * WINDOW, left : left + columns * WINDOW] for top, left in starts]
    return np.stack([part.reshape(rows, WINDOW, columns, WINDOW).mean(axis=(1, 3)) for part in parts])


def _inside(first: Image.Image, second: Image.Image, fit: _Fit) -> npt.NDArray[np.bool_]:
    """The points of the first image that the second has too, without a margin."""
    xs = np.arange(first.width) * fit.scale_x + fit.shift_x
    ys = np.arange(first.height) * fit.scale_y + fit.shift_y
    if abs(fit.shift_x) < 0.5 and abs(fit.shift_y) < 0.5:
        return np.ones((first.height, first.width), np.bool_)
    margin_x, margin_y = (BLUR_RADIUS + 2) * fit.scale_x, (BLUR_RADIUS + 2) * fit.scale_y
    across = (xs >= margin_x) & (xs <= second.width - 1 - margin_x)
    down = (ys >= margin_y) & (ys <= second.height - 1 - margin_y)
    return np.logical_and.outer(down, across)


def _lost(edges: Pixels, others: Pixels) -> npt.NDArray[np.bool_]:
    """The strong edges that have no edge of the same direction within a pixel of them in the other image."""
    lost = np.zeros(edges.shape, bool)
    for sign in (1, -1):
        near = Image.fromarray(np.clip(sign * others, 0, 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
        lost |= (sign * edges > STRONG) & (np.asarray(near) < WEAK)
    return lost


def _coarse_fit(first: Image.Image, second: Image.Image, frame: _Fit) -> _Fit:
    """The scale and shift under which reduced copies of both agree best."""
    small = _reduced(first, COARSE_SIDE)
    share = small.width / first.width
    target = _edges(small)
    shape = tuple(2 ** int(np.ceil(np.log2(length * 1.3))) for length in target.shape)
    spectrum = np.fft.rfft2(target, shape)
    best, found = -1.0, frame
    for scale in SCALES:
        size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
        other = _edges(second.resize(size, Image.Resampling.BOX))
        shape_2 = tuple(max(a, 2 ** int(np.ceil(np.log2(b)))) for a, b in zip(shape, other.shape, strict=True))
        base = spectrum if shape_2 == shape else np.fft.rfft2(target, shape_2)
        product = np.fft.irfft2(np.conj(base) * np.fft.rfft2(other, shape_2), shape_2)
        norm = float(np.linalg.norm(target) * np.linalg.norm(other)) or 1.0
        score = float(product.max()) / norm
        if score > best:
            y, x = _peak(product)
            by_x, by_y = second.width / size[0], second.height / size[1]
            best = score
            found = _Fit(scale_x=share * by_x, scale_y=share * by_y, shift_x=float(x) * by_x, shift_y=float(y) * by_y)
    return found


def _finer_fit(first: Image.Image, second: Image.Image, fit: _Fit) -> _Fit:
    """The fit after the shifts that blocks of the image still have under it."""
    over = _edges(_laid_over(first, second, fit))
    one = _edges(first)
    inside = _inside(first, second, fit)
    over *= inside
    one = one * inside
    points = []
    height, width = one.shape
    for row in range(BLOCKS):
        for column in range(BLOCKS):
            ys = slice(row * height // BLOCKS, (row + 1) * height // BLOCKS)
            xs = slice(column * width // BLOCKS, (column + 1) * width // BLOCKS)
            block, other = one[ys, xs], over[ys, xs]
            energy = float(np.abs(block).sum())
            if min(block.shape) < 8 or energy < 255 * 10:
                continue
            y, x = _shift(block, other)
            if abs(y) < MAX_SHIFT and abs(x) < MAX_SHIFT:
                points.append(((xs.start + xs.stop) / 2, (ys.start + ys.stop) / 2, x, y, energy))
    if not points:
        return fit
    at_x, at_y, move_x, move_y, weight = (np.array(values) for values in zip(*points, strict=True))
    grow_x, add_x = _line(at_x, move_x, weight)
    grow_y, add_y = _line(at_y, move_y, weight)
    return _Fit(
        scale_x=fit.scale_x * (1 + grow_x),
        scale_y=fit.scale_y * (1 + grow_y),
        shift_x=fit.shift_x + fit.scale_x * add_x,
        shift_y=fit.shift_y + fit.scale_y * add_y,
    )


def _shift(block: Pixels, other: Pixels) -> tuple[float, float]:
    product = np.fft.irfft2(np.conj(np.fft.rfft2(block)) * np.fft.rfft2(other), block.shape)
    y, x = _peak(product)
    return float(y), float(x)


def _peak(product: npt.NDArray[np.floating[Any]]) -> tuple[int, int]:
    """Row and column of the largest value of a circular correlation, from minus a half of its size on."""
    place, size = divmod(int(product.argmax()), product.shape[1]), product.shape
    y, x = (
        position - length if position > length // 2 else position for position, length in zip(place, size, strict=True)
    )
    return y, x


def _line(places: Numbers, moves: Numbers, weights: Numbers) -> tuple[float, float]:
    """(slope, value at 0) of the line through the moves."""
    mean_place, mean_move = np.average(places, weights=weights), np.average(moves, weights=weights)
    spread = float((weights * (places - mean_place) ** 2).sum())
    slope = float((weights * (places - mean_place) * (moves - mean_move)).sum()) / spread if spread > 0 else 0.0
    return slope, float(mean_move - slope * mean_place)
