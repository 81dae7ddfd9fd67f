from dataclasses import dataclass
from typing import Literal

import pytest

from models.json_config import ConfigError, added, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...]
    pair: tuple[int, float] = (1, 0.5)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    mode: Literal["a", "b"]
    share: float
    limit: int | None

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError("share: above 1")


WHOLE = '{"name": "n", "inner": {"sizes": [1, 2], "pair": [1, 2.0]}, "mode": "a", "share": 1, "limit": null}'


def test_a_config_survives_the_round_trip() -> None:
    config = Outer(name="n", inner=Inner(sizes=(3, 4)), mode="b", share=0.25, limit=7)
    assert from_json(Outer, to_json(config)) == config


def test_whole_numbers_are_fractions_where_fractions_are_expected() -> None:
    assert from_json(Outer, WHOLE).share == 1.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "n"', '"nam": "n"', r"config.json: unknown keys \['nam'\], missing keys \['name'\]"),
        ("[1, 2]", "[1, true]", r"config.json.inner.sizes\[1\]: found True, expected int"),
        ("[1, 2]", "3", "config.json.inner.sizes: found 3, expected a list"),
        ("[1, 2.0]", "[1]", "config.json.inner.pair: found 1 items, expected 2"),
        ("[1, 2.0]", "[1, 2.0, 3]", "config.json.inner.pair: found 3 items, expected 2"),
        (', "pair": [1, 2.0]', "", r"config.json.inner: unknown keys \[\], missing keys \['pair'\]"),
        ('"mode": "a"', '"mode": true', "config.json.mode: found True, expected one of 'a', 'b'"),
        ('"a"', '"c"', "config.json.mode: found 'c', expected one of 'a', 'b'"),
        ('"share": 1', '"share": 2', "config.json: share: above 1"),
        ('"share": 1', '"share": "1"', "config.json.share: found '1', expected float"),
        ('"limit": null', '"limit": 1.5', "config.json.limit: found 1.5, expected int"),
        ('{"sizes": [1, 2], "pair": [1, 2.0]}', "[]", "config.json.inner: found .*, expected an object"),
        ('"mode"', "mode", "config.json: not valid JSON"),
    ],
)
def test_mistakes_name_their_place(old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError, match=message):
        from_json(Outer, WHOLE.replace(old, new))


@dataclass(frozen=True, kw_only=True)
class Grown:
    name: str
    mode: Literal["a", "b"] = added("a")


def test_a_field_that_older_files_lack_means_what_they_meant() -> None:
    assert from_json(Grown, '{"name": "n"}') == Grown(name="n")
    assert to_json(Grown(name="n")) == '{\n  "name": "n"\n}\n'  # the same bytes as before the field was added
    changed = Grown(name="n", mode="b")
    assert from_json(Grown, to_json(changed)) == changed
    with pytest.raises(ConfigError, match=r"config.json.mode: found 'c', expected one of 'a', 'b'"):
        from_json(Grown, '{"name": "n", "mode": "c"}')
    with pytest.raises(ConfigError, match=r"unknown keys \[\], missing keys \['name'\]"):
        from_json(Grown, '{"mode": "b"}')
