"""Recorded configurations are read in today's names; keys that moved to another section of the stage are left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from orchestrator.artifact import JSON
from orchestrator.documents.renames import new_metric_name, renamed_keys, renamed_values, with_new_names


@dataclass(frozen=True, kw_only=True)
class Loop:
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {
        "most_skips": "max_skips",
        "kept": "execution.kept",
        "gone": "removed; use",
    }
    max_skips: int = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"form": {"pictures": "images"}}
    form: str = "images"
    loop: Loop | None = None
    loops: tuple[Loop, ...] = ()
    by_name: Mapping[str, Loop] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"loop": {"most_skips": 3, "kept": 9, "gone": 1}}, {"loop": {"max_skips": 3}}),
        ({"loops": [{"most_skips": 3}, {}]}, {"loops": [{"max_skips": 3}, {}]}),
        ({"by_name": {"most_skips": {"most_skips": 3}}}, {"by_name": {"most_skips": {"max_skips": 3}}}),
        ({"form": "pictures", "loop": None}, {"form": "images", "loop": None}),
        ({"form": 3, "gone": {"most_skips": 1}}, {"form": 3, "gone": {"most_skips": 1}}),
        ([], []),
    ],
)
def test_a_recorded_configuration_is_read_in_todays_names(recorded: JSON, expected: JSON) -> None:
    assert with_new_names(Config, recorded) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pictures", "images"), ("pictures/fit", None), ("left/a/b", "dropped/a/b"), ("left", None), ("images", None)],
)
def test_a_metric_is_renamed_by_its_name_or_by_its_beginning(name: str, expected: str | None) -> None:
    assert new_metric_name({"pictures": "images", "left/": "dropped/"}, name) == expected


def test_a_class_without_renames_has_none() -> None:
    assert (renamed_keys(Config), renamed_values(Loop)) == ({}, {})
