from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.errors import PluginError
from orchestrator.plugins.checks import checked_kinds
from orchestrator.stage import Plugin, StageKind
from tests.orchestrator.test_cli import SHOUT

PLUGIN = Plugin(target="kit:ALL", distribution="kit", version="1.0")


@dataclass(kw_only=True)
class Changeable:
    times: int


class Plain:
    pass


def test_one_kind_or_a_list_or_a_tuple_of_them_is_marked_with_its_plugin() -> None:
    marked = replace(SHOUT, plugin=PLUGIN)
    assert checked_kinds(SHOUT, PLUGIN) == [marked]
    assert checked_kinds([SHOUT], PLUGIN) == checked_kinds((SHOUT,), PLUGIN) == [marked]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "found int, expected a StageKind or a list or tuple of them"),
        ([SHOUT, "shout"], "found str, expected a StageKind"),
        (replace(SHOUT, name="Shout it"), "'Shout it': name: expected lower-case letters"),
        (replace(SHOUT, version=0), "'shout': version: found 0, expected a whole number from 1"),
        (replace(SHOUT, version=True), "version: found True"),
        (replace(SHOUT, config=Plain), "config: expected a class decorated with @dataclass"),
        (replace(SHOUT, config=Changeable), "config: Changeable can be changed"),
        (replace(SHOUT, run=lambda _config, _context: {}), "run: expected a function at the top level of a module"),
        (replace(SHOUT, output="words"), "output: found 'words', expected the kind of an artifact"),
        (replace(SHOUT, inputs=["words"]), "inputs: found list, expected a mapping"),
        (replace(SHOUT, inputs={"words": "words@1"}), r"inputs\.words: found str, expected Slot"),
    ],
)
def test_a_kind_that_cannot_work_is_refused_with_the_field_and_what_was_expected(
    found: StageKind[Any], message: str
) -> None:
    with pytest.raises(PluginError, match=f"plugin kit 1.0 .*{message}"):
        checked_kinds(found, PLUGIN)
