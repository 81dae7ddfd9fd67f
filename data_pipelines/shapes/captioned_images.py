"""A folder of small images with captions beside them, as an example of a user's own data."""

import random
from pathlib import Path

from PIL import Image

from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.language import caption
from data_pipelines.shapes.scenes import invent_scene

SIDE = 64  # pixels


def write_captioned_images(folder: Path, count: int) -> None:
    """Write `count` images as NN.png with NN.txt; the first is blank and the second has no caption.

    The same count gives the same files.
    """
    config = ShapesConfig(seed=0, understanding=0, generation=0, editing=0, text=0, image_sizes=((SIDE, SIDE),))
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = invent_scene(config, rng)
        image = draw(scene) if number else Image.new("RGB", (SIDE, SIDE), "white")
        image.save(folder / f"{number:02d}.png")
        text = caption(scene, frozenset()) if number != 1 else ""
        (folder / f"{number:02d}.txt").write_text(f"{text}\n", encoding="utf-8")
