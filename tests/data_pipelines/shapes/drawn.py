"""Scenes for the tests of the shapes dataset, and the score of reading a drawn scene back."""

import random

import numpy as np
from PIL import ImageFilter

from data_pipelines.shapes import language
from data_pipelines.shapes.config import SHAPES, ShapesConfig
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.oracle import SceneScore, read_scene, score_scene
from data_pipelines.shapes.scenes import Scene, invent_scene

PLAIN = ShapesConfig(
    seed=3, sizes=("large",), backgrounds=("white",), placement="row", max_shapes=2, varied_wording=False
)


def scenes(config: ShapesConfig, count: int) -> list[Scene]:
    return [invent_scene(config, random.Random(f"{config.seed}/{index}")) for index in range(count)]


def read(scene: Scene, *, blur: float = 0.0, noise: float = 0.0, shapes: tuple[str, ...] = SHAPES[:3]) -> SceneScore:
    image = draw(scene).filter(ImageFilter.GaussianBlur(blur)) if blur else draw(scene)
    pixels = np.asarray(image)
    if noise:
        grain = np.random.default_rng(7).normal(0, noise, pixels.shape)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return score_scene(language.describe(scene), read_scene(pixels, shapes=shapes))


def share_right(scores: list[SceneScore]) -> float:
    return sum(score.all_right for score in scores) / len(scores)
