"""Scenes of a few plain shapes: their types, random scenes, and random edits of a scene.

A scene is a function of the config and a random generator alone, so line i of a file depends on (seed, i) only.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_pipelines.shapes.config import ShapesConfig

PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
RADIUS = {"small": 0.13, "large": 0.21}  # of the image's shorter side
GAP_PX = 2.0  # between two shapes
BOX = 1.05  # half the side of a square that holds any shape of radius 1
REACH = 1.34  # from the centre of a shape of radius 1 to its farthest corner, that of the triangle


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn shape; lengths are in pixels of the scene."""

    shape: str
    colour: str
    size: str
    place: str  # one of `PLACES`
    x: float  # of the centre
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of an image: figures in reading order on a plain background."""

    height: int
    width: int
    background: str
    figures: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "width": self.width,
            "background": self.background,
            "figures": [vars(figure).copy() for figure in self.figures],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Scene":
        return Scene(
            height=int(value["height"]),
            width=int(value["width"]),
            background=str(value["background"]),
            figures=tuple(Figure(**figure) for figure in value["figures"]),
        )


def place_of(x: float, y: float, *, height: int, width: int) -> str:
    """The place name of a point, by thirds of the image."""
    column = min(2, max(0, int(3 * x / width)))
    row = min(2, max(0, int(3 * y / height)))
    return PLACES[3 * row + column]


def invent_scene(config: ShapesConfig, rng: random.Random) -> Scene:
    """A random scene; no two of its figures share shape and colour, none overlap."""
    height, width = rng.choice(config.image_sizes)
    background = rng.choice(config.backgrounds)
    kinds = [(shape, colour) for shape in config.shapes for colour in config.colours]
    wanted = min(rng.randint(config.min_shapes, config.max_shapes), len(kinds))
    figures: list[Figure] = []
    for index, (shape, colour) in enumerate(rng.sample(kinds, wanted)):
        size = rng.choice(config.sizes)
        if config.placement == "row":
            figures.append(_row_figure(shape, colour, size, index, wanted, height, width, rng))
            continue
        figure = _free_figure(shape, colour, size, figures, height, width, rng)
        if figure is not None:  # else no place is free: the scene gets fewer figures
            figures.append(figure)
    return Scene(height=height, width=width, background=background, figures=reading_order(figures))


def reading_order(figures: list[Figure] | tuple[Figure, ...]) -> tuple[Figure, ...]:
    """The figures sorted by place from top left to bottom right, then from left to right."""
    return tuple(sorted(figures, key=lambda figure: (PLACES.index(figure.place), figure.x, figure.y)))


def _row_figure(
    shape: str, colour: str, size: str, index: int, count: int, height: int, width: int, rng: random.Random
) -> Figure:
    """Figure number `index` of `count` along the longer side, with a random offset from the middle line."""
    share = (index + 0.5) / count
    x, y = (share * width, height / 2) if width >= height else (width / 2, share * height)
    room = (max(height, width) / count / 2 - GAP_PX / 2) / BOX
    radius = min(
        RADIUS[size] * min(height, width) * 1.5 * rng.uniform(0.92, 1.08), room, min(height, width) / 2 / BOX - 1
    )
    spare = max(0.0, min(0.06 * min(height, width), room - radius))
    x, y = x + rng.uniform(-spare, spare), y + rng.uniform(-spare, spare)
    place = place_of(x, y, height=height, width=width)
    return Figure(
        shape=shape, colour=colour, size=size, place=place, x=round(x, 2), y=round(y, 2), radius=round(radius, 2)
    )


def _free_figure(
    shape: str, colour: str, size: str, others: list[Figure], height: int, width: int, rng: random.Random
) -> Figure | None:
    """A figure in a random place that touches none of the others, or None if no place is free."""
    for place in rng.sample(PLACES, len(PLACES)):
        figure = _figure_in(place, shape, colour, size, height, width, rng)
        if all(_apart(figure, other) for other in others):
            return figure
    return None


def _figure_in(place: str, shape: str, colour: str, size: str, height: int, width: int, rng: random.Random) -> Figure:
    row, column = divmod(PLACES.index(place), 3)
    radius = RADIUS[size] * min(height, width) * rng.uniform(0.94, 1.06)
    x = width * (column + 0.5) / 3 + rng.uniform(-0.04, 0.04) * width
    y = height * (row + 0.5) / 3 + rng.uniform(-0.04, 0.04) * height
    x = min(max(x, radius + 1), width - radius - 1)
    y = min(max(y, radius + 1), height - radius - 1)
    return Figure(
        shape=shape, colour=colour, size=size, place=place, x=round(x, 2), y=round(y, 2), radius=round(radius, 2)
    )


def _apart(figure: Figure, other: Figure) -> bool:
    dx, dy = abs(figure.x - other.x), abs(figure.y - other.y)
    radii = figure.radius + other.radius
    boxes_apart = max(dx, dy) >= BOX * radii + GAP_PX
    return figure.place != other.place and (boxes_apart or math.hypot(dx, dy) >= REACH * radii + GAP_PX)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change from one scene to another."""

    kind: str  # "recolour", "move", "add" or "remove"
    subject: Figure  # the changed figure before the edit, or the added figure
    value: str  # its new colour or place, or ""
    source: Scene
    target: Scene


def invent_edit(scene: Scene, config: ShapesConfig, rng: random.Random) -> Edit:
    """A random edit that `scene` allows; falls back to recolouring, which is always possible."""
    kinds = ["recolour", "recolour"]
    if config.placement == "grid":
        kinds += ["move", "add"]
    if len(scene.figures) > 1:
        kinds.append("remove")
    kind = rng.choice(kinds)
    makers = {"move": _moved, "add": _added, "remove": _removed}
    edit = makers[kind](scene, config, rng) if kind in makers else None
    return edit or _recoloured(scene, config, rng)


def _with(scene: Scene, old: Figure | None, new: Figure | None) -> Scene:
    rest = [figure for figure in scene.figures if figure is not old]
    return replace(scene, figures=reading_order([*rest, new] if new else rest))


def _recoloured(scene: Scene, config: ShapesConfig, rng: random.Random) -> Edit:
    figure = rng.choice(scene.figures)
    taken = {other.colour for other in scene.figures if other.shape == figure.shape}
    colours = [colour for colour in config.colours if colour not in taken]
    colour = rng.choice(colours or [c for c in config.colours if c != figure.colour] or [figure.colour])
    changed = replace(figure, colour=colour)
    return Edit(kind="recolour", subject=figure, value=colour, source=scene, target=_with(scene, figure, changed))


def _moved(scene: Scene, config: ShapesConfig, rng: random.Random) -> Edit | None:
    figure = rng.choice(scene.figures)
    others = [other for other in scene.figures if other is not figure]
    spots = [place for place in PLACES if place != figure.place]
    for place in rng.sample(spots, len(spots)):
        moved = _figure_in(place, figure.shape, figure.colour, figure.size, scene.height, scene.width, rng)
        moved = replace(moved, radius=figure.radius)
        if all(_apart(moved, other) for other in others):
            return Edit(kind="move", subject=figure, value=place, source=scene, target=_with(scene, figure, moved))
    return None


def _added(scene: Scene, config: ShapesConfig, rng: random.Random) -> Edit | None:
    taken = {(figure.shape, figure.colour) for figure in scene.figures}
    kinds = [(shape, colour) for shape in config.shapes for colour in config.colours if (shape, colour) not in taken]
    if not kinds or len(scene.figures) >= config.max_shapes:
        return None
    shape, colour = rng.choice(kinds)
    figure = _free_figure(shape, colour, rng.choice(config.sizes), list(scene.figures), scene.height, scene.width, rng)
    if figure is None:
        return None
    return Edit(kind="add", subject=figure, value=figure.place, source=scene, target=_with(scene, None, figure))


def _removed(scene: Scene, config: ShapesConfig, rng: random.Random) -> Edit:
    figure = rng.choice(scene.figures)
    return Edit(kind="remove", subject=figure, value="", source=scene, target=_with(scene, figure, None))
