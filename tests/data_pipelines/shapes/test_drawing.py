"""Shapes cover about the same area, and a drawn scene has its size and colours."""

import random

import numpy as np
import pytest

from data_pipelines.shapes.config import SHAPES, ShapesConfig
from data_pipelines.shapes.drawing import BACKGROUND_PALETTE, PALETTE, coverage, draw
from data_pipelines.shapes.scenes import invent_scene


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_one_radius_cover_about_the_same_area(shape: str) -> None:
    share_YX = coverage(shape, x=32.0, y=32.0, radius=20.0, height=64, width=64)
    assert 0 <= share_YX.min() <= share_YX.max() == 1
    assert share_YX.sum() / (np.pi * 20**2) == pytest.approx(0.75, abs=0.3)


def test_the_part_of_a_shape_outside_the_image_is_cut_off() -> None:
    whole = coverage("square", x=16.0, y=16.0, radius=8.0, height=32, width=32)
    half = coverage("square", x=0.0, y=16.0, radius=8.0, height=32, width=32)
    assert half.sum() == pytest.approx(whole.sum() / 2, rel=0.01)
    assert coverage("square", x=-50.0, y=16.0, radius=8.0, height=32, width=32).sum() == 0


def test_a_scene_is_drawn_in_its_size_and_colours() -> None:
    scene = invent_scene(ShapesConfig(seed=0), random.Random("x"))
    image = draw(scene)
    assert image.size == (scene.width, scene.height)
    pixels = np.asarray(image)
    assert tuple(pixels[0, 0]) == BACKGROUND_PALETTE[scene.background]
    for figure in scene.figures:
        assert tuple(pixels[int(figure.y), int(figure.x)]) == PALETTE[figure.colour]
