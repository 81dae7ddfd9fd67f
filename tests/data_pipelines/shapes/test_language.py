"""Captions are read back exactly, and questions have the right answers."""

import random

import pytest

from data_pipelines.shapes import language
from data_pipelines.shapes.config import SHAPES, ShapesConfig
from tests.data_pipelines.shapes.drawn import PLAIN, scenes


def test_captions_say_everything_and_are_read_back_exactly() -> None:
    config = ShapesConfig(seed=5, shapes=SHAPES)
    for index, scene in enumerate(scenes(config, 100)):
        words = language.caption(scene, config.mentions, random.Random(index))
        parsed = language.parse_caption(words)
        assert parsed is not None
        assert sorted(map(str, parsed)) == sorted(map(str, language.describe(scene)))
        assert language.parse_background(words) == scene.background


def test_captions_of_a_restricted_world_are_short() -> None:
    words = {language.caption(scene, PLAIN.mentions) for scene in scenes(PLAIN, 50)}
    assert all(len(text.split()) <= 7 for text in words)
    assert any(text in words for text in ("a red circle", "a blue square", "a green triangle", "an orange circle"))


@pytest.mark.parametrize("text", ["", "nothing to see", "a red", "red circle?!"])
def test_text_without_an_object_is_not_a_caption(text: str) -> None:
    assert language.parse_caption(text) is None


def test_questions_have_the_right_answers() -> None:
    config = ShapesConfig(seed=9)
    for index, scene in enumerate(scenes(config, 60)):
        kinds = {(figure.shape, figure.colour) for figure in scene.figures}
        for asked in language.questions(scene, config.mentions, random.Random(index)):
            if asked.kind == "count":
                assert language.NUMBERS.index(asked.answer) == len(scene.figures)
            if asked.kind == "colour":
                assert (asked.question.split()[-1].strip("?"), asked.answer) in kinds
            if asked.kind == "exists":
                colour, shape = asked.question.strip("?").split()[-2:]
                assert (asked.answer == "yes") == ((shape, colour) in kinds)
