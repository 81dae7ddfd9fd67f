"""The caption of a sample is its text without the published template around it."""

import pytest

from data_pipelines.captions.extraction import extract_caption
from data_pipelines.datasets.records import caption_record

IMAGE_ANSWER = ("gpt", "<image>")


@pytest.mark.parametrize("caption", ["", "a dog", "<b>a dog</b>", "IMG_0001.png"])
@pytest.mark.parametrize("task", ["generation", "understanding"])
def test_the_caption_of_a_captioned_image_comes_back(task: str, caption: str) -> None:
    assert extract_caption(task, caption_record(caption, "a.png", task, {}).turns) == caption


def test_the_instruction_of_an_edit_ends_without_the_full_stop_of_its_template() -> None:
    prompt = "<image>\nPlease edit the image according to the instruction: make it red.\n"
    assert extract_caption("editing", [("human", prompt), IMAGE_ANSWER]) == "make it red"


def test_a_prompt_without_a_template_is_the_caption() -> None:
    assert extract_caption("generation", [("human", "a red boat"), IMAGE_ANSWER]) == "a red boat"


def test_the_first_answer_is_the_caption_of_other_samples() -> None:
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "A boat."), ("human", "And this?"), ("gpt", "A dog.")]
    assert extract_caption("understanding", turns) == "A boat."
    assert extract_caption("understanding", []) == ""
