"""One object of a file: a conversation, a document with images between its texts, or an image with captions."""

from typing import Any

import pytest

from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.objects import layout_name, parse_object

CONFIG = IngestConfig(source="t")
SHAREGPT = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
MMC4 = {
    "text_list": ["A walk.", "A red door.", "The end."],
    "image_info": [
        {"image_name": "door.png", "raw_url": "http://x/d", "matched_text_index": 1, "matched_sim": 0.3},
        {"image_name": "end.png", "matched_text_index": 2},
    ],
    "url": "http://x/page",
}


def record(value: object, config: IngestConfig = CONFIG) -> Record:
    (found,) = parse_object(value, config)
    assert isinstance(found, Record), found
    return found


@pytest.mark.parametrize(
    "value",
    [
        {"image": "a.png", "caption": "a red circle"},
        {"file_name": "a.png", "text": "a red circle"},
        {"images": ["a.png"], "caption": "a red circle", "conversations": None},
        {"image": None, "path": "a.png", "caption": None, "prompt": "a red circle"},
        {"image": {"path": "a.png", "bytes": None}, "captions": ["a red circle"]},
        {"filepath": "a.png", "sentences": [{"raw": "a red circle"}]},
        {"Image": "a.png", "Text": "a red circle", "title": "no"},
        {"filepath": "a.png", "title": "a red circle"},
    ],
)
def test_an_image_with_a_caption_is_a_record(value: dict[str, Any]) -> None:
    found = record(value)
    assert (found.image_names, found.turns[1]) == (("a.png",), ("gpt", "a red circle"))


def test_the_keys_of_image_and_caption_can_be_stated() -> None:
    value = {"image": "small.png", "image_large": "a.png", "caption": "no", "meta": {"en": "a red circle"}, "url": "u"}
    found = record(value, IngestConfig(source="t", image="image_huge;image_large", caption="meta.en"))
    assert (found.image_names, found.turns[1][1], found.meta["url"]) == (("a.png",), "a red circle", "u")


def test_chat_with_a_system_turn_keeps_it_beside_the_turns() -> None:
    found = record({"conversations": SHAREGPT, "id": "one"})
    assert (found.task, len(found.turns), found.meta) == ("text", 2, {"system": "Be kind."})


def test_images_of_mmc4_stand_before_the_texts_that_they_match() -> None:
    found = record(MMC4)
    assert found.turns == (("human", "A walk.\n<image>\nA red door.\n<image>"), ("gpt", "The end."))
    assert (found.task, found.image_names) == ("understanding", ("door.png", "end.png"))
    assert found.meta == {"url": "http://x/page"}


def test_lists_of_texts_and_images_with_null_between_them_are_a_document() -> None:
    found = record({"texts": ["A door.", None, "It is red.", None], "images": [None, "a.png", None, "b.png"]})
    assert found.turns == (("human", "A door.\n<image>\n<image>"), ("gpt", "It is red."))
    assert found.image_names == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        ({"image": "a.png"}, "caption_missing", "'a.png' has no text"),
        ({"caption": "a red circle"}, "missing_file", "a caption without a picture"),
        ({"image": 7, "caption": "x"}, "missing_file", "neither bytes nor a name"),
        ({"images": ["a", "b"], "caption": "x"}, "ambiguous_sample", "2 pictures under 'images' with one caption"),
        ({"weight": 1, "height": 2}, "bad_schema", "its keys: weight, height"),
        ({}, "bad_schema", "its keys: none"),
        ([1], "bad_schema", "a JSON list"),
        ({**MMC4, "image_info": []}, "missing_file", "without a picture"),
        ({**MMC4, "text_list": []}, "caption_missing", "without a text"),
        ({**MMC4, "image_info": [7]}, "missing_file", "neither bytes nor a name"),
    ],
)  # fmt: skip
def test_what_is_no_record_says_why(value: object, reason: str, detail: str) -> None:
    (found,) = parse_object(value, CONFIG)
    assert isinstance(found, Reject)
    assert found.reason == reason
    assert detail in found.detail


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"image": "a", "conversations": [{"from": "human"}]}, "LLaVA"),
        ({"images": ["a"], "conversations": [{"from": "human"}]}, "ILLUME+"),
        ({"conversations": SHAREGPT}, "ShareGPT"),
        ({"messages": [{"role": "user"}]}, "chat messages"),
        ({"data": [{"role": "user"}]}, "published text"),
        (MMC4, "interleaved documents"),
        ({"image": "a", "caption": "b"}, "captions"),
        ({"image": "a"}, ""), ([1], ""),
    ],
)  # fmt: skip
def test_layouts_are_called_by_their_names(value: object, name: str) -> None:
    assert layout_name(value, CONFIG) == name


@pytest.mark.parametrize("index", [3, -1, "1", 1.0])
def test_an_image_of_a_text_that_is_not_there_costs_its_document(index: object) -> None:
    value = {**MMC4, "image_info": [{"image_name": "door.png", "matched_text_index": index}]}
    (found,) = parse_object(value, CONFIG)
    assert isinstance(found, Reject)
    assert found.reason == "missing_file"
