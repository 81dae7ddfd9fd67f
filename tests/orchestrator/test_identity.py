"""Canonical JSON has one text for each value and refuses values without one encoding; locations are not identity."""

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.identity import (
    canonical_json,
    config_to_json,
    fingerprint_of,
    is_location_type,
    semantic_config,
    to_json,
)
from orchestrator.stage import Location

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float
    weights: Location | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: Location
    side_px: int = 256
    colour: Colour = Colour.RED
    mirrors: tuple[Location, ...] = ()
    by_name: Mapping[str, Location] = field(default_factory=dict)
    remark: Annotated[Location | None, "said of it"] = None
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-5))
    schedule: tuple[Optimizer, ...] = ()


@given(PLAIN)
def test_canonical_json_reads_back_as_the_same_value(value: Any) -> None:
    again = json.loads(canonical_json(value))
    assert again == value
    assert canonical_json(again) == canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_every_bit(value: float) -> None:
    again = json.loads(canonical_json(value))
    assert type(again) is float
    assert (again, math.copysign(1.0, again)) == (value, math.copysign(1.0, value))


@given(st.dictionaries(TEXT, PLAIN, min_size=2, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_the_canonical_text_never_changes() -> None:
    payload = {"kind": "curate", "version": 1, "config": {"b": [1, 1.0, 1e-05, True, None], "a": 'ü"\n'}}
    text = '{"config":{"a":"ü\\"\\n","b":[1,1.0,1e-05,true,null]},"kind":"curate","version":1}'
    assert canonical_json(payload) == text
    assert fingerprint_of(payload) == ("e76b8b49350a10f9a3f4a3296ed43b688296c0ff3e88eb2a4dfd99734e1008e1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "value: found nan"),
        ({"a": [1.0, float("inf")]}, r"a\[1\]: found inf"),
        ({1: "a"}, "the key 1 is not text"),
        ({"a": {1, 2}}, "a: set has no obvious encoding"),
        (b"raw", "bytes has no obvious encoding"),
        (Path("x"), "has no obvious encoding"),
        (np.float64(1.0), "float64 has no obvious encoding"),
        (np.int64(1), "int64 has no obvious encoding"),
        ({"path": Location("/data")}, "path: Location has no obvious encoding"),
        (Optimizer, "type has no obvious encoding"),
        ("\ud800", "half of a surrogate pair"),
        ({"\udfff": 1}, "half of a surrogate pair"),
        (object(), "object has no obvious encoding"),
    ],
)
def test_values_without_one_obvious_encoding_are_refused(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        canonical_json(value)


def test_a_cyclic_value_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        canonical_json(cycle)


def test_dataclasses_enums_and_tuples_have_the_encoding_of_their_values() -> None:
    assert to_json({"a": (Colour.BLUE, Optimizer(lr=2.0))}) == {"a": ["blue", {"lr": 2.0, "weights": None}]}


def test_whole_numbers_and_floats_are_different_values() -> None:
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 1.0})


def test_locations_are_excluded_from_the_identity_at_every_depth() -> None:
    config = Config(
        folder=Location("/data"),
        mirrors=(Location("s3://bucket"),),
        by_name={"a": Location("/a")},
        remark=Location("/remark"),
        optimizer=Optimizer(lr=0.5, weights=Location("/weights")),
        schedule=(Optimizer(lr=0.25, weights=Location("/more")),),
    )
    assert semantic_config(config) == {
        "side_px": 256,
        "colour": "red",
        "optimizer": {"lr": 0.5},
        "schedule": [{"lr": 0.25}],
    }


def test_fields_are_excluded_by_their_types_and_not_by_their_values() -> None:
    assert (
        semantic_config(Config(folder=Location("/data"))).keys()
        == semantic_config(Config(folder=Location("/elsewhere"), mirrors=(Location("a"),), remark=Location("b"))).keys()
    )


def test_a_saved_configuration_keeps_its_locations() -> None:
    saved = config_to_json(Config(folder=Location("/data"), mirrors=(Location("s3://bucket"),)))
    assert saved["folder"] == "/data"
    assert saved["mirrors"] == ["s3://bucket"]


@pytest.mark.parametrize("hint", [Location | str, tuple[Location, int], dict[Location, str], Location | int | None])
def test_a_field_that_mixes_locations_with_other_values_is_refused(hint: object) -> None:
    with pytest.raises(TypeError, match="location"):
        is_location_type(hint)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Location, True),
        (Location | None, True),
        (tuple[Location, ...], True),
        (tuple[Location | None, ...] | None, True),
        (dict[str, tuple[Location, ...]], True),
        (str, False),
        (str | None, False),
        (tuple[Optimizer, ...], False),
        (dict[str, str], False),
        (Any, False),
    ],
)
def test_what_counts_as_a_location(hint: object, expected: bool) -> None:
    assert is_location_type(hint) is expected
