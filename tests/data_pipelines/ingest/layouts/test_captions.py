"""Which caption of a record is taken."""

from collections import Counter
from typing import Any

import pytest

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import captions_of, chosen_captions, find_captions, plain_meta

CONFIG = IngestConfig(source="t")


@pytest.mark.parametrize(
    ("fields", "stated", "found"),
    [
        ({"caption": "one", "text": "two"}, "", ["one"]),
        ({"caption": None, "text": "two"}, "", ["two"]),
        ({"caption": "", "text": "two"}, "", ["two"]),
        ({"TEXT": "two"}, "", ["two"]),
        ({"captions": ["one", "two"]}, "", ["one", "two"]),
        ({"sentences": [{"raw": "one"}, {"raw": "two", "tokens": []}]}, "", ["one", "two"]),
        ({"caption": "one", "text": "two"}, "text", ["two"]),
        ({"caption": "one", "alt": {"en": "two"}}, "json.alt.en;caption", ["two"]),
        ({"caption": 7}, "", []),
        ({}, "", []),
    ],
)  # fmt: skip
def test_captions_are_found_by_the_stated_or_usual_keys(fields: dict[str, Any], stated: str, found: list[str]) -> None:
    assert find_captions(fields, IngestConfig(source="t", caption=stated)) == found


def test_one_of_several_captions_is_chosen_by_its_digest_and_the_seed() -> None:
    captions = ["zero", "one", "two"]
    chosen = [chosen_captions(captions, f"{n}.png", CONFIG)[0] for n in range(300)]
    assert chosen == [chosen_captions(captions, f"{n}.png", CONFIG)[0] for n in range(300)]
    assert all(70 < count < 130 for count in Counter(chosen).values())
    other = IngestConfig(source="t", caption_seed=1)
    assert [chosen_captions(captions, f"{n}.png", other)[0] for n in range(300)] != chosen
    assert chosen_captions(captions, "a", IngestConfig(source="t", caption_choice="first")) == ["zero"]
    assert chosen_captions(captions, "a", IngestConfig(source="t", caption_choice="all")) == captions


def test_only_short_plain_values_are_kept_beside_a_caption() -> None:
    fields = {"url": "u", "n": 1, "x": None, "v": [1], "inf": float("inf"), "long": "x" * 3000, "id": 1}
    assert plain_meta(fields, frozenset({"id"})) == {"url": "u", "n": 1}
    assert captions_of(["a", 7, None, ["b"]]) == ["a"]
