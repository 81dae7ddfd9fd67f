"""Which JSON values are records, what their task is, and that equal content has one id."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.datasets.records import Record, Reject, sample_id, split_from_name, utf8_safe
from data_pipelines.ingest.layouts.chat import parse_record
from data_pipelines.ingest.units import decode_json

ASK = {"from": "human", "value": "<image>\nDescribe the image."}
TELL = {"from": "gpt", "value": "a red circle"}
DRAW = [{"from": "human", "value": "a red circle"}, {"from": "gpt", "value": "<image>"}]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
PUBLISHED_TEXT = [
    {"role": role, "content": [{"type": "text", "text": {"type": "string", "string": "hi"}}]}
    for role in ("user", "assistant")
]


def record(**fields: Any) -> Record:
    parsed = parse_record(fields)
    assert isinstance(parsed, Record), parsed
    return parsed


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"images": ["a.png"], "conversations": [ASK, TELL]}, "understanding"),
        ({"images": ["a.png"], "conversations": DRAW}, "generation"),
        ({"images": ["a", "b"], "conversations": [ASK, DRAW[1]]}, "editing"),
        ({"conversations": [{"from": "human", "value": "hi"}, TELL]}, "text"),
        ({"images": [], "messages": CHAT}, "text"),
        ({"data": PUBLISHED_TEXT}, "text"),
    ],
)
def test_the_task_follows_from_the_placeholders(fields: dict[str, Any], task: str) -> None:
    assert record(**fields).task == task


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1], "bad_schema"),
        ({"images": [], "conversations": []}, "bad_schema"),
        ({"images": "a.png", "conversations": [ASK, TELL]}, "bad_schema"),
        ({"images": [None, 7], "conversations": [ASK, TELL]}, "bad_schema"),
        ({"images": ["a"], "conversations": [TELL, ASK]}, "bad_schema"),
        ({"images": ["a"], "conversations": [ASK]}, "bad_schema"),
        ({"images": ["a"], "conversations": [ASK, {"from": "gpt", "value": None}]}, "bad_schema"),
        ({"images": ["a"], "conversations": [ASK, TELL], "task": "generation"}, "bad_schema"),
        ({"images": ["a"], "conversations": [ASK, TELL], "meta": {"big": "x" * 70000}}, "bad_schema"),
        ({"images": [], "conversations": [ASK, TELL]}, "placeholder_mismatch"),
        ({"images": [None], "conversations": [ASK, TELL]}, "placeholder_mismatch"),
        ({"images": ["a", "b"], "conversations": [ASK, TELL]}, "placeholder_mismatch"),
    ],
)  # fmt: skip
def test_what_does_not_hold_together_is_rejected_with_its_reason(value: object, reason: str) -> None:
    parsed = parse_record(value)
    assert isinstance(parsed, Reject)
    assert parsed.reason == reason


def test_unknown_keys_and_meta_are_kept_together() -> None:
    parsed = record(
        images=["a"], conversations=[ASK, TELL], kind="colour", meta={"scene": [1]}, license=" MIT ", split="test", id=7
    )
    assert parsed.meta == {"kind": "colour", "scene": [1]}
    assert (parsed.license, parsed.split, parsed.external_id) == ("MIT", "val", "7")


def test_the_id_covers_texts_task_and_images_and_nothing_else() -> None:
    turns = [("human", "a"), ("gpt", "b")]
    ids = {
        sample_id("text", turns, []),
        sample_id("generation", turns, []),
        sample_id("text", turns, ["00"]),
        sample_id("text", [("human", "a"), ("gpt", "c")], []),
    }
    assert len(ids) == 4
    assert sample_id("text", list(turns), []) in ids


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("generation_val-00001.jsonl", "val"),
        ("x/train/a.tar", "train"),
        ("valley.jsonl", None),
        ("test.parquet", "val"),
        ("dev/a.png", "val"),
        ("eval-0001.jsonl", "val"),
    ],
)
def test_the_split_is_read_from_whole_words_of_a_file_name(name: str, split: str | None) -> None:
    assert split_from_name(name) == split


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a":1}{"a":2}',
        b"[" * 3000 + b"]" * 3000,
        b"[" * 200 + b"]" * 200,
        b"9" * 5000,
    ],
)
def test_lines_that_are_not_one_strict_json_value_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(line)


KEYS = ["images", "conversations", "from", "value", "role", "content", "text", "type", "id", "task", "meta"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["<image>", "human", "gpt"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@given(json_values)
def test_any_json_value_is_a_record_or_a_reject(value: object) -> None:
    parsed = parse_record(value)
    if isinstance(parsed, Record):
        assert parsed.turns[-1][0] == "gpt"
        assert sum(text.count("<image>") for _, text in parsed.turns) == len(parsed.image_names)
        json.dumps(parsed.meta)


@given(st.text(st.characters(categories=["Cs", "L"]), max_size=20))
def test_text_with_lone_surrogates_becomes_writable(text: str) -> None:
    assert len(utf8_safe(text).encode("utf-8").decode("utf-8")) == len(text)
