"""Edits change one thing, and scenes survive JSON."""

import json
import random

from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.scenes import Scene, invent_edit
from tests.data_pipelines.shapes.drawn import read, scenes


def test_edits_change_one_thing_and_their_images_show_it() -> None:
    config = ShapesConfig(seed=11)
    seen = set()
    for index, scene in enumerate(scenes(config, 50)):
        edit = invent_edit(scene, config, random.Random(index))
        seen.add(edit.kind)
        before, after = set(edit.source.figures), set(edit.target.figures)
        assert len(before - after) + len(after - before) == (1 if edit.kind in ("add", "remove") else 2)
        assert read(edit.target).all_right
    assert seen == {"recolour", "move", "add", "remove"}


def test_a_scene_survives_json() -> None:
    for scene in scenes(ShapesConfig(seed=4), 5):
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene
