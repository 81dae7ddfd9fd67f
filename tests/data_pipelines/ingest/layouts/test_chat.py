"""Conversations of many layouts: null keys, picture parts, images in parts, speakers, numbers that JSON cannot hold."""

import base64
import json
from typing import Any

import pytest

from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.layouts.chat import MAX_IMAGES, parse_record

ASK, TELL = "<image>\nDescribe the image.", "a red circle"
CHAT = [{"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}]
LLAVA = [{"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]
TURNS = (("human", ASK), ("gpt", TELL))
INLINE = "data:image/png;base64," + base64.b64encode(b"pixels").decode()


def parts(*given: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*given, {"type": "text", "text": "Describe the image."}]}, CHAT[1]]


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": None, "messages": CHAT, "images": ["a.png"]},
        {"conversations": [], "messages": CHAT, "images": ["a.png"], "data": None},
        {"conversations": LLAVA, "images": None, "image": "a.png"},
        {"conversations": LLAVA, "images": [], "image": "a.png"},
        {"messages": [{**turn, "value": None, "from": None} for turn in CHAT], "image": "a.png"},
        {"messages": [{**turn, "text": "", "value": None} for turn in CHAT], "image": ["a.png"]},
        {"conversations": [{"role": None, "from": "Human ", "value": ASK}, LLAVA[1]], "image": "a.png"},
        {"messages": CHAT, "images": [{"path": None, "file_name": "a.png"}]},
        {"conversations": [None], "messages": CHAT, "images": [""], "image": "a.png"},
        {"conversations": [{"from": None, "value": " "}], "messages": CHAT, "images": [None], "image": ["a.png"]},
        {"conversations": {"from": None}, "messages": CHAT, "images": {"bytes": None, "path": ""}, "image": "a.png"},
        {"id": "", "messages": json.dumps(CHAT), "image": {"bytes": b"", "path": "a.png"}},
    ],
)
def test_null_is_as_if_the_key_were_absent(fields: dict[str, Any]) -> None:
    found = parse_record({"id": None, "sample_id": 7, **fields})
    assert isinstance(found, Record), found
    assert (found.turns, found.image_names, found.external_id) == (TURNS, ("a.png",), "7")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": parts({"type": "image", "image": "a.png"})},
        {"messages": parts({"type": "image"}), "images": ["a.png"]},
        {"messages": parts({"type": "image", "image": "a.png"}), "images": ["a.png"]},
        {"messages": parts({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}})},
        {"messages": parts({"type": "image_url", "image_url": "a.png", "text": None})},
        {"messages": parts({"type": "input_image", "image_url": "a.png"})},
        {"messages": parts({"image": "a.png"})},
        {"messages": parts({"type": "IMAGE", "image": "a.png"})},
        {"messages": [parts({"type": "image", "image": "a.png"})[0],
                      {"role": "assistant", "content": {"type": "text", "text": TELL}}]},
        {"messages": parts({"type": "image", "path": "a.png"})},
        {"messages": parts({"type": "image", "text": None, "image": {"bytes": None, "path": "a.png"}})},
    ],
)  # fmt: skip
def test_an_image_part_is_a_placeholder_at_its_place(fields: dict[str, Any]) -> None:
    found = parse_record(fields)
    assert isinstance(found, Record), found
    assert (found.turns, found.image_names, found.held) == (TURNS, ("a.png",), {})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": INLINE}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": INLINE.split(",")[1]}},
        {"type": "image", "image": {"bytes": b"pixels", "path": "a.png"}},
    ],
)
def test_an_image_inside_a_part_is_held_by_the_record(part: dict[str, Any]) -> None:
    found = parse_record({"messages": parts(part)})
    assert isinstance(found, Record)
    assert (found.image_names, found.held) == (("0",), {0: b"pixels"})


def test_parts_and_listed_images_are_ordered_by_their_placeholders() -> None:
    first = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "image", "image": "b.png"}, {"type": "text", "text": ASK}],
    }
    found = parse_record({"messages": [first, CHAT[1]], "images": ["a.png", "c.png"]})
    assert isinstance(found, Record)
    assert found.image_names == ("a.png", "b.png", "c.png")


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"messages": parts({"type": "audio", "audio": "a.wav"})}, "bad_schema", "turn 0: part 1 is of type 'audio'"),
        ({"messages": parts(7)}, "bad_schema", "turn 0: part 1 is of type 'int'"),
        ({"messages": parts({"type": "image"})}, "placeholder_mismatch", "of which 0 have a name"),
        ({"messages": parts({"type": "image"}), "images": ["a", "b"]}, "placeholder_mismatch", "and 2 listed"),
        ({"messages": [{"role": "tool", "content": "x"}, CHAT[1]]}, "bad_schema", "speaker 'tool'"),
        ({"messages": [7, CHAT[1]]}, "bad_schema", "turn 0: a int"),
        ({"messages": CHAT, "image": "a", "aspect": float("inf")}, "bad_schema", "'aspect' holds a value that JSON"),
        ({"messages": CHAT, "image": "a", "meta": {"x": b"1"}}, "bad_schema", "'x' holds a value that JSON"),
        ({"messages": parts(*[{"type": "image", "image": "a"}] * (MAX_IMAGES + 1))}, "bad_schema", "65 images"),
        ({"messages": "hello", "image": "a"}, "bad_schema", "no list under"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(fields: dict[str, Any], reason: str, detail: str) -> None:
    found = parse_record(fields)
    assert isinstance(found, Reject)
    assert found.reason == reason
    assert detail in found.detail


def test_an_empty_image_beside_a_text_is_none() -> None:
    found = parse_record({"image": "", "conversations": [{"from": "human", "value": "hi"}, LLAVA[1]]})
    assert isinstance(found, Record)
    assert found.task == "text"


def test_turns_as_an_object_of_lists_are_a_list_of_turns() -> None:
    columns = {"from": ["human", "gpt"], "value": [ASK, TELL]}
    record = parse_record({"conversations": columns, "image": "a.png"})
    assert isinstance(record, Record)
    assert record.turns == TURNS
    uneven = parse_record({"conversations": {"from": ["human"], "value": [ASK, TELL]}, "image": "a.png"})
    assert isinstance(uneven, Reject)
