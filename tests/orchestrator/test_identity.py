"""Canonical JSON has one text for each value and refuses values without one encoding; locations are not identity."""

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.identity import (
    canonical_json,
    complete_json,
    config_to_json,
    fingerprint_of,
    is_location_type,
    semantic_config,
    to_json,
)
from orchestrator.stage import Location
from tests.orchestrator.grown_config import grown

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
    assert semantic_config(config) == {"optimizer": {"lr": 0.5}, "schedule": [{"lr": 0.25}]}
    assert complete_json(config) == {
        "side_px": 256,
        "colour": "red",
        "optimizer": {"lr": 0.5},
        "schedule": [{"lr": 0.25}],
    }


@dataclass(frozen=True, kw_only=True)
class Side:
    channels: int
    width: int = 4


@dataclass(frozen=True, kw_only=True)
class Model:
    side: Side = Side(channels=8, width=2)
    sides: tuple[Side, ...] = ()
    by_name: Mapping[str, Side] = field(default_factory=dict)
    share: float = 0.5
    best: Side | None = None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Model(), {}),
        (Model(side=Side(channels=8, width=2), share=0.5), {}),
        (Model(side=Side(channels=8)), {"side": {"channels": 8}}),  # not the default of the field
        (Model(side=Side(channels=9, width=2)), {"side": {"channels": 9, "width": 2}}),
        (Model(sides=(Side(channels=1),)), {"sides": [{"channels": 1}]}),
        (Model(by_name={"a": Side(channels=1, width=5)}), {"by_name": {"a": {"channels": 1, "width": 5}}}),
        (Model(best=Side(channels=8)), {"best": {"channels": 8}}),
        (Model(share=-0.5), {"share": -0.5}),
    ],
)
def test_what_equals_its_default_is_left_out_at_every_depth(config: Model, expected: object) -> None:
    assert semantic_config(config) == expected
    assert semantic_config(grown(config)) == expected


def test_a_part_of_a_configuration_is_named_by_its_fields() -> None:
    config = Model(side=Side(channels=1), share=0.25)
    assert semantic_config(config, only=("share", "sides")) == {"share": 0.25}
    assert semantic_config(config, without=("share",)) == {"side": {"channels": 1}}
    with pytest.raises(ValueError, match="Model has no field 'shares'"):
        semantic_config(config, without=("shares",))


@dataclass(frozen=True, kw_only=True)
class Warm:
    rate: float = 0.5
    kind: Literal["warm"] = "warm"


@dataclass(frozen=True, kw_only=True)
class Cold:
    rate: float = 0.5
    kind: Literal["cold"] = "cold"


@dataclass(frozen=True, kw_only=True)
class Tagged:
    start: Warm | Cold


@dataclass(frozen=True, kw_only=True)
class Untagged:
    start: tuple[Side | Optimizer, ...]


def test_the_classes_of_a_union_stay_apart() -> None:
    assert semantic_config(Tagged(start=Warm())) == {"start": {"kind": "warm"}}
    assert semantic_config(Tagged(start=Cold())) == {"start": {"kind": "cold"}}
    with pytest.raises(TypeError, match=r"Untagged\.start: .* does not say which class a value was of"):
        semantic_config(Untagged(start=()))


def test_an_identity_takes_no_dataclass_whole() -> None:
    with pytest.raises(TypeError, match=r"config\.sides\[0\]: found a Side; encode it with `semantic_json`"):
        fingerprint_of({"config": {"sides": [Side(channels=1)]}})  # type: ignore[dict-item]  # the mistake


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
