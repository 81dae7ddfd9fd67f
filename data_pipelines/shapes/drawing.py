"""Geometry and colours of the shapes, shared by drawing and oracle, and the drawing of scenes.

Legend: Y, X pixel rows and columns; C the three channels red, green, blue.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipelines.shapes.scenes import Scene

Floats = npt.NDArray[np.float64]
Inside = Callable[[Floats, Floats], npt.NDArray[np.bool_]]

PALETTE = {
    "red": (220, 40, 40),
    "green": (35, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 30),
    "orange": (245, 130, 25),
    "purple": (140, 50, 180),
    "cyan": (30, 190, 205),
    "black": (25, 25, 25),
}
BACKGROUND_PALETTE = {
    "white": (252, 252, 252),
    "grey": (214, 214, 218),
    "cream": (250, 240, 208),
    "mint": (212, 242, 220),
}
EXTENT = 1.1  # half the side of a box around a shape of radius 1, with a margin
SUPERSAMPLING = 4  # samples along each side of a pixel


def _star(x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """A five-pointed star, one point up; the inner radius is half of the outer one."""
    angle = np.arctan2(x, -y)
    folded = np.abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(x, y)
    tip, valley = 1.0, 0.5
    valley_x, valley_y = valley * math.cos(math.pi / 5), valley * math.sin(math.pi / 5)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    return valley_y * (along - tip) - (valley_x - tip) * across <= 0


# Tests whether a point lies inside; units of the figure's radius, y downwards. Areas are near pi, so that all shapes
# look equally large.
INSIDE: dict[str, Inside] = {
    "circle": lambda x, y: x * x + y * y <= 0.98,
    "square": lambda x, y: (np.abs(x) <= 0.88) & (np.abs(y) <= 0.88),
    "triangle": lambda x, y: (y <= 0.82) & (y >= -0.98) & (np.abs(x) <= 1.04 * (y + 0.98) / 1.8),
    "star": lambda x, y: _star(x, y),
    "cross": lambda x, y: (np.maximum(np.abs(x), np.abs(y)) <= 0.96) & (np.minimum(np.abs(x), np.abs(y)) <= 0.32),
}


def coverage(shape: str, *, x: float, y: float, radius: float, height: int, width: int) -> Floats:
    """Share of each pixel that the shape covers, [Y, X] in 0..1."""
    share_YX = np.zeros((height, width))
    top, left = max(0, math.floor(y - radius * EXTENT)), max(0, math.floor(x - radius * EXTENT))
    bottom, right = min(height, math.ceil(y + radius * EXTENT)), min(width, math.ceil(x + radius * EXTENT))
    if top >= bottom or left >= right:
        return share_YX
    rows = top + (np.arange((bottom - top) * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    columns = left + (np.arange((right - left) * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    inside = INSIDE[shape]((columns[None, :] - x) / radius, (rows[:, None] - y) / radius)
    blocks = np.broadcast_to(inside, (rows.size, columns.size)).reshape(
        bottom - top, SUPERSAMPLING, right - left, SUPERSAMPLING
    )
    share_YX[top:bottom, left:right] = blocks.mean(axis=(1, 3))
    return share_YX


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of its own size, anti-aliased."""
    canvas_YXC = np.empty((scene.height, scene.width, 3))
    canvas_YXC[:] = BACKGROUND_PALETTE[scene.background]
    for figure in scene.figures:
        share_YX = coverage(
            figure.shape, x=figure.x, y=figure.y, radius=figure.radius, height=scene.height, width=scene.width
        )
        canvas_YXC += share_YX[..., None] * (np.asarray(PALETTE[figure.colour]) - canvas_YXC)
    return Image.fromarray(np.rint(canvas_YXC).astype(np.uint8))
