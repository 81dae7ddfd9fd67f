"""The oracle: detects shapes and colours in pixels, also in the blurred and noisy images that small models generate.

Legend: Y, X pixel rows and columns; C the three channels; K the colours of the palette.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.shapes.config import COLOURS
from data_pipelines.shapes.drawing import INSIDE, PALETTE, coverage
from data_pipelines.shapes.language import ObjectDescription
from data_pipelines.shapes.scenes import PLACES, place_of

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_DISTANCE = 48.0  # in RGB, 0..441: pixels that differ less from the background belong to it
MIN_AREA_SHARE = 0.006  # of the image; the smallest drawn shape covers 0.026 of a 2:1 image
READING_SIDE = 60  # images whose shorter side is longer are shrunk by an integer factor first
BLURS = (0.0, 0.8, 1.5, 2.2)  # in pixels: the ideal shapes are compared at these levels of blur
SCALES = (0.94, 1.0, 1.06)
LARGE_RADIUS = 0.17  # of the shorter side: separates small from large drawn shapes


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """An object detected in an image; lengths in pixels."""

    shape: str
    colour: str
    size: str
    place: str
    x: float
    y: float
    radius: float
    fit: float  # overlap with the ideal shape, 0..1


@dataclass(frozen=True, kw_only=True)
class SceneScore:
    """Counts of the expected objects that were found, by what is right about them."""

    expected: int
    found: int
    shapes_right: int
    colours_right: int
    both_right: int  # shape and colour of the same object
    places_right: int  # shape, colour and place, among the expected objects whose place is stated
    places_stated: int

    @property
    def count_right(self) -> bool:
        return self.expected == self.found

    @property
    def all_right(self) -> bool:
        """True if every object has its shape, colour and stated place, and there is no other."""
        return self.count_right and self.both_right == self.expected and self.places_right == self.places_stated


def read_scene(
    image_YXC: npt.NDArray[np.uint8],
    *,
    background: tuple[int, int, int] | None = None,
    shapes: Sequence[str] = ("circle", "square", "triangle"),
    colours: Sequence[str] = COLOURS,
) -> list[DetectedObject]:
    """The objects in an RGB image, in reading order.

    `background` None: estimated from the border. Only `shapes` and `colours` are considered.
    """
    factor = max(1, min(image_YXC.shape[:2]) // READING_SIDE)
    pixels_YXC = _shrunk(image_YXC.astype(np.float64), factor)
    ground = np.asarray(background, dtype=np.float64) if background else _border_colour(pixels_YXC)
    nearest_YX = _nearest_colour(pixels_YXC, ground, colours)
    objects = _objects(nearest_YX, MIN_AREA_SHARE * nearest_YX.size)
    taken_YX = np.any(objects, axis=0) if objects else np.zeros_like(nearest_YX, dtype=bool)
    found = []
    for area_YX in objects:
        reach_YX = area_YX | (_grown(area_YX, 3) & ~taken_YX)
        found.append(_measure(pixels_YXC, area_YX, reach_YX, ground, shapes, colours, factor))
    return sorted(found, key=lambda figure: (PLACES.index(figure.place), figure.x))


def score_scene(
    expected: Sequence[ObjectDescription], found: Sequence[DetectedObject | ObjectDescription]
) -> SceneScore:
    """Compare expected and found objects as multisets: an object found twice counts once unless two are expected."""
    stated = [thing for thing in expected if thing.place is not None]
    return SceneScore(
        expected=len(expected),
        found=len(found),
        shapes_right=_common([thing.shape for thing in expected], [thing.shape for thing in found]),
        colours_right=_common([thing.colour for thing in expected], [thing.colour for thing in found]),
        both_right=_common(
            [(thing.shape, thing.colour) for thing in expected], [(thing.shape, thing.colour) for thing in found]
        ),
        places_right=_common(
            [(thing.shape, thing.colour, thing.place) for thing in stated],
            [(thing.shape, thing.colour, thing.place) for thing in found],
        ),
        places_stated=len(stated),
    )


def _common(expected: Sequence[object], found: Sequence[object]) -> int:
    return sum((Counter(expected) & Counter(found)).values())


def _shrunk(image_YXC: Floats, factor: int) -> Floats:
    """Mean of blocks of `factor` x `factor` pixels; rows and columns that do not fill a block are cut off."""
    height, width = image_YXC.shape[0] // factor, image_YXC.shape[1] // factor
    blocks = image_YXC[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    shrunk: Floats = blocks.mean(axis=(1, 3))
    return shrunk


def _grown(mask_YX: Mask, steps: int) -> Mask:
    for _ in range(steps):
        padded = np.pad(mask_YX, 1)
        mask_YX = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask_YX


def _border_colour(pixels_YXC: Floats) -> Floats:
    """Median of the outermost two rows and columns."""
    edge = np.concatenate([pixels_YXC[:2], pixels_YXC[-2:]]).reshape(-1, 3)
    sides = np.concatenate([pixels_YXC[:, :2], pixels_YXC[:, -2:]], axis=1).reshape(-1, 3)
    colour: Floats = np.median(np.concatenate([edge, sides]), axis=0)
    return colour


def _nearest_colour(pixels_YXC: Floats, ground: Floats, colours: Sequence[str]) -> npt.NDArray[np.int64]:
    """Index of each pixel's colour, -1 for background.

    Every pixel is taken as a mixture of the background and one colour. An edge pixel lies on the line between the two,
    so the nearest line wins, not the nearest colour (else the rim of a red shape on white would be read as orange).
    """
    palette_KC = np.asarray([PALETTE[name] for name in colours], dtype=np.float64) - ground
    offset_YXC = pixels_YXC - ground
    share_YXK = offset_YXC @ palette_KC.T / (palette_KC**2).sum(axis=1)
    ideal_YXKC = np.clip(share_YXK, 0.0, 1.0)[..., None] * palette_KC
    residual_YXK = np.linalg.norm(offset_YXC[:, :, None, :] - ideal_YXKC, axis=3)
    best_YX = residual_YXK.argmin(axis=2)
    share_YX = np.take_along_axis(share_YXK, best_YX[..., None], axis=2)[..., 0]
    distance_YX = np.linalg.norm(offset_YXC, axis=2)
    return np.where((distance_YX >= MIN_DISTANCE) & (share_YX >= 0.3), best_YX, -1)


def _objects(nearest_YX: npt.NDArray[np.int64], min_area: float) -> list[Mask]:
    """Connected foreground areas; an area with several large patches of different colours is split into them."""
    objects = []
    for area in connected_areas(nearest_YX >= 0):
        if area.sum() < min_area:
            continue
        patches = []
        for colour in np.unique(nearest_YX[area]):
            same = connected_areas(area & (nearest_YX == colour))
            patches += [patch for patch in same if patch.sum() >= max(min_area, 0.2 * area.sum())]
        objects += patches if len(patches) > 1 else [area]
    return objects


def connected_areas(mask_YX: Mask) -> list[Mask]:
    """The 4-connected areas of a mask, each as a mask, by joining horizontal runs of neighbouring rows."""
    runs = _runs(mask_YX)
    parents = list(range(len(runs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    previous: list[int] = []
    current: list[int] = []
    row_before = -2
    for index, (row, start, stop) in enumerate(runs):
        if row != row_before:
            previous = current if row == row_before + 1 else []
            current, row_before = [], row
        for other in previous:
            if runs[other][1] < stop and start < runs[other][2]:
                parents[root(index)] = root(other)
        current.append(index)
    areas: dict[int, Mask] = {}
    for index, (row, start, stop) in enumerate(runs):
        area = areas.setdefault(root(index), np.zeros_like(mask_YX))
        area[row, start:stop] = True
    return list(areas.values())


def _runs(mask_YX: Mask) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every horizontal run, from top to bottom."""
    steps = np.diff(np.pad(mask_YX.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))


def _measure(
    pixels_YXC: Floats,
    area_YX: Mask,
    reach_YX: Mask,
    ground: Floats,
    shapes: Sequence[str],
    colours: Sequence[str],
    factor: int,
) -> DetectedObject:
    """The object in an area: its colour from the core, then the coverage of each pixel, then the best fitting shape."""
    offsets = pixels_YXC[area_YX] - ground
    distances = np.linalg.norm(offsets, axis=1)
    core = np.median(offsets[distances >= np.quantile(distances, 0.5)], axis=0)
    palette_KC = np.asarray([PALETTE[name] for name in colours], dtype=np.float64) - ground
    colour = colours[int(np.linalg.norm(palette_KC - core, axis=1).argmin())]
    share_YX = (pixels_YXC - ground) @ core / max(float(core @ core), 1.0)
    cover_YX = np.where(reach_YX & (share_YX > 0.1), np.clip(share_YX, 0.0, 1.0), 0.0)
    fit, x, y, radius, shape = max((*_best_fit(cover_YX, shape), shape) for shape in shapes)
    height, width = cover_YX.shape
    return DetectedObject(
        shape=shape,
        colour=colour,
        size="large" if radius >= LARGE_RADIUS * min(height, width) else "small",
        place=place_of(x, y, height=height, width=width),
        x=x * factor,
        y=y * factor,
        radius=radius * factor,
        fit=fit,
    )


def _best_fit(cover_YX: Floats, shape: str) -> tuple[float, float, float, float]:
    """(overlap, x, y, radius) of the ideal shape with the mask's mass and centroid, over a few sizes and blurs."""
    centroid_x, centroid_y, unit_area = _UNIT[shape]
    mass = float(cover_YX.sum())
    radius = float(np.sqrt(mass / unit_area))
    middle_y = float(cover_YX.sum(axis=1) @ (np.arange(cover_YX.shape[0]) + 0.5)) / mass
    middle_x = float(cover_YX.sum(axis=0) @ (np.arange(cover_YX.shape[1]) + 0.5)) / mass
    margin = int(1.5 * radius) + 5
    top, left = max(0, int(middle_y) - margin), max(0, int(middle_x) - margin)
    patch_YX = cover_YX[top : int(middle_y) + margin, left : int(middle_x) + margin]
    height, width = patch_YX.shape
    best = (-1.0, 0.0, 0.0, radius)
    for size in (radius * scale for scale in SCALES):
        x, y = middle_x - centroid_x * size, middle_y - centroid_y * size
        ideal_YX = coverage(shape, x=x - left, y=y - top, radius=size, height=height, width=width)
        for blur in BLURS:
            soft_YX = _blurred(ideal_YX, blur)
            overlap = float(np.minimum(soft_YX, patch_YX).sum() / np.maximum(soft_YX, patch_YX).sum())
            best = max(best, (overlap, x, y, size))
    return best


def _blurred(cover_YX: Floats, sigma: float) -> Floats:
    """Gaussian blur by two small matrix products."""
    if not sigma:
        return cover_YX
    sides = []
    for length in cover_YX.shape:
        positions = np.arange(length)
        kernel = np.exp(-((positions[:, None] - positions[None, :]) ** 2) / (2 * sigma**2))
        sides.append(kernel / (sigma * np.sqrt(2 * np.pi)))
    blurred: Floats = sides[0] @ cover_YX @ sides[1]
    return blurred


def _unit_moments(shape: str) -> tuple[float, float, float]:
    """Centroid x, y and area of a shape with radius 1."""
    axis = (np.arange(400) + 0.5) / 200 - 1.0
    y, x = np.meshgrid(axis * 1.1, axis * 1.1, indexing="ij")
    inside = INSIDE[shape](x, y)
    return float(x[inside].mean()), float(y[inside].mean()), float(inside.mean()) * 2.2**2


_UNIT = {shape: _unit_moments(shape) for shape in INSIDE}
