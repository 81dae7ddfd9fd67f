"""Keys of configuration classes: types in YAML's terms, defaults, units, nesting."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from orchestrator.reference.config_keys import config_keys, type_text, unit_of, walk
from orchestrator.stage import Location


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Part:
    weight: float  # relative to the others
    side_px: int = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    parts: tuple[Part, ...]
    wait_s: float = 1.0  # between two tries
    # what is read
    folder: Location = Location("data")
    by_name: Mapping[str, Part] = field(default_factory=dict)
    one: Part = Part(weight=0.5)
    colour: Colour = Colour.RED
    limit: int | None = None  # pixels; null: none


def test_every_key_is_listed_with_what_stands_below_it() -> None:
    keys = {key.path: key for key in walk(config_keys(Config))}
    assert list(keys) == [
        "parts", "parts.weight", "parts.side_px", "wait_s", "folder", "by_name", "by_name.weight", "by_name.side_px",
        "one", "one.weight", "one.side_px", "colour", "limit",
    ]  # fmt: skip
    assert [key for key, found in keys.items() if found.is_required and "." not in key] == ["parts"]
    assert keys["one"].default == {"weight": 0.5, "side_px": 8}
    assert (keys["folder"].default, keys["colour"].default, keys["limit"].default) == ("data", "red", None)
    assert (keys["parts.weight"].comment, keys["folder"].section) == ("relative to the others", "what is read")
    assert [keys[name].unit for name in ("wait_s", "one.side_px", "limit")] == ["seconds", "pixels", "pixels"]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "whole number"),
        (Location, "path or address"),
        (tuple[tuple[int, int], ...], "list of [whole number, whole number]"),
        (float | None, "number or null"),
        (Literal["drop", "error"], "'drop' or 'error'"),
        (Mapping[str, int], "mapping of whole number"),
        (Part, "mapping"),
        (Colour, "'red'"),
    ],
)
def test_types_read_as_yaml(hint: object, text: str) -> None:
    assert type_text(hint) == text


def test_units_come_from_the_name_or_the_beginning_of_the_comment() -> None:
    assert unit_of("rate_per_s", "") == "per second"
    assert unit_of("min_side", "pixels, upright") == "pixels"
    assert unit_of("max_crop", "share of an image") == ""
