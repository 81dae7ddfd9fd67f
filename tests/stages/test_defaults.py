"""No default of a config changes without the version of its kind, as identities leave out what equals its default."""

import ast
from pathlib import Path

from tests.stages.record_defaults import COMMAND, SHARD_VALUES, current, forbidden_changes, recorded

STAGES = Path(__file__).parents[2] / "stages"


def test_a_default_changes_only_together_with_the_version_of_its_kind() -> None:
    forbidden = forbidden_changes(recorded(), current())
    assert not forbidden, "\n".join([*forbidden, f"and then record the table again: {COMMAND}"])


def test_the_recorded_table_is_that_of_today() -> None:
    assert recorded() == current(), f"kinds, versions or defaults differ from the table; record it again: {COMMAND}"


def test_every_default_of_a_value_in_a_shard_identity_is_recorded() -> None:
    """`semantic_json` takes any value; each of its uses in the stages is one of a class that is listed."""
    uses = [
        node
        for file in STAGES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "semantic_json"
    ]
    assert len(uses) == sum(map(len, SHARD_VALUES.values())), "list the class of each use in SHARD_VALUES"
