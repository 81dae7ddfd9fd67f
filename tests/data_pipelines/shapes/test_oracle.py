"""The oracle reads drawn scenes back, also from blurred and noisy images, and scores them as multisets."""

import numpy as np
import pytest

from data_pipelines.shapes import language
from data_pipelines.shapes.config import SHAPES, ShapesConfig
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.language import ObjectDescription
from data_pipelines.shapes.oracle import connected_areas, read_scene, score_scene
from tests.data_pipelines.shapes.drawn import PLAIN, read, scenes, share_right


@pytest.mark.parametrize("shapes", [SHAPES[:3], SHAPES], ids=["three shapes", "five shapes"])
def test_the_oracle_reads_clean_drawings_without_a_mistake(shapes: tuple[str, ...]) -> None:
    config = ShapesConfig(seed=1, shapes=shapes)
    assert share_right([read(scene, shapes=shapes) for scene in scenes(config, 40)]) == 1.0


@pytest.mark.parametrize(("blur", "noise", "floor"), [(1.0, 0, 0.97), (1.5, 0, 0.95), (1.0, 12, 0.95)])
def test_the_oracle_reads_blurred_and_noisy_drawings(blur: float, noise: float, floor: float) -> None:
    config = ShapesConfig(seed=2, image_sizes=((64, 64),))
    assert share_right([read(scene, blur=blur, noise=noise) for scene in scenes(config, 50)]) >= floor


def test_the_oracle_reads_images_enlarged_to_many_pixels() -> None:
    images = [(scene, draw(scene).resize((scene.width * 5, scene.height * 5))) for scene in scenes(PLAIN, 8)]
    for scene, image in images:
        assert score_scene(language.describe(scene), read_scene(np.asarray(image))).both_right == len(scene.figures)


def test_an_empty_or_plain_image_has_no_objects() -> None:
    assert read_scene(np.full((64, 64, 3), 240, np.uint8)) == []
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    read_scene(noise)  # must not fail


def test_a_wrong_colour_costs_only_the_colour() -> None:
    expected = [ObjectDescription(shape="circle", colour="red"), ObjectDescription(shape="square", colour="blue")]
    score = score_scene(expected, [ObjectDescription(shape="circle", colour="green"), expected[1]])
    assert (score.shapes_right, score.colours_right, score.both_right, score.count_right) == (2, 1, 1, True)
    assert not score.all_right


def test_a_repeated_object_is_counted_once() -> None:
    red = ObjectDescription(shape="circle", colour="red")
    score = score_scene([red], [red, red])
    assert (score.both_right, score.count_right, score.all_right) == (1, False, False)


def test_connected_areas_join_a_horseshoe() -> None:
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1]], bool)
    assert sorted(int(area.sum()) for area in connected_areas(mask)) == [1, 1, 7]
