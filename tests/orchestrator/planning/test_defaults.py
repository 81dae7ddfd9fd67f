"""Defaults are shown where identities leave them out, and none changes while the version of its kind stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, ClassVar

import pytest

from orchestrator.artifact import JSON
from orchestrator.identity import complete_json, semantic_config
from orchestrator.planning.defaults import complete_config, forbidden_changes, recorded_defaults
from orchestrator.stage import Location, StageKind
from tests.orchestrator.planning.test_plan import KIND


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Loop:
    steps: int
    rates: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Config:
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"old_share": "share", "kept": "execution.kept"}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"form": {"pictures": "images"}}
    loop: Loop
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    best: Part | None = None
    share: float = 0.5
    form: str = "all"
    folder: Location = Location("/data")


CONFIGS = [
    Config(loop=Loop(steps=3)),
    Config(loop=Loop(steps=3, rates=(0.1, 0.2)), parts=(Part(name="a"), Part(name="b", weight=2.0)), share=0.25),
    Config(loop=Loop(steps=3), by_name={"x": Part(name="a")}, best=Part(name="b")),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_complete_configuration_has_the_defaults_that_an_identity_leaves_out(config: Config) -> None:
    assert complete_config(Config, semantic_config(config)) == complete_json(config)


def test_a_configuration_from_before_is_completed_in_todays_names() -> None:
    before: JSON = {"loop": {"steps": 3}, "old_share": 0.25, "kept": 2, "form": "pictures", "gone": 1}
    completed: Any = complete_config(Config, before)
    assert (completed["share"], completed["form"], completed["gone"]) == (0.25, "images", 1)
    assert completed.keys().isdisjoint({"old_share", "kept", "folder"})


def kinds_of(config_class: type, version: int = 1) -> dict[str, StageKind[Any]]:
    return {"work": replace(KIND, config=config_class, version=version)}


def changed(name: str, hint: object, default: object) -> type:
    return make_dataclass("Changed", [(name, hint, default)], bases=(Config,), frozen=True, kw_only=True)


def test_the_table_has_each_default_of_a_kind_at_every_depth() -> None:
    table: Any = recorded_defaults(kinds_of(Config), {"work": (Part,)})
    assert table["work"]["version"] == 1
    assert table["work"]["defaults"] == {
        "Part.weight": 1.0,
        "best": None,
        "best.weight": 1.0,
        "by_name": {},
        "by_name[].weight": 1.0,
        "form": "all",
        "loop.rates": [0.9, 0.95],
        "parts": [],
        "parts[].weight": 1.0,
        "share": 0.5,
    }


@dataclass(frozen=True, kw_only=True)
class Renamed:
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"share": "portion", "form": "execution.form"}
    loop: Loop
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    best: Part | None = None
    portion: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RenamedAndChanged(Renamed):
    portion: float = 0.6


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (kinds_of(Config), None),
        (kinds_of(changed("fresh", int, 7)), None),
        (kinds_of(changed("share", float, 0.6), version=2), None),
        (kinds_of(changed("share", float, 0.6)), "work: the default of share was 0.5 and is 0.6 now, but the version"),
        (kinds_of(Renamed), None),
        (kinds_of(changed("portion", float, 0.6)), None),
        (kinds_of(RenamedAndChanged), "work: the default of share was 0.5 and is 0.6 now, but the version is still 1"),
        (kinds_of(Loop), "work: the default of best was null and has no default or is gone"),
    ],
)
def test_a_changed_default_needs_another_version(now: dict[str, StageKind[Any]], message: str | None) -> None:
    found = forbidden_changes(recorded_defaults(kinds_of(Config)), recorded_defaults(now))
    assert bool(found) is (message is not None)
    assert message is None or any(message in sentence for sentence in found)
