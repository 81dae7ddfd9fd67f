"""All errors about data are told apart from mistakes in the program by one class."""

import ast
import pickle
from pathlib import Path

import pytest

from data_pipelines.datasets.reader import DatasetError
from models.errors import DataError
from models.strict_weights import WeightsError
from orchestrator.failures.classes import FailureClass, classify

ROOT = Path(__file__).parents[2]


def public_errors() -> dict[str, set[str]]:
    """The public error classes of both packages, with the names of their bases."""
    files = [file for room in ("models", "data_pipelines") for file in (ROOT / room).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)]
    return {
        node.name: {ast.unparse(base) for base in node.bases}
        for node in nodes
        if node.name.endswith("Error") and not node.name.startswith("_")
    }


def test_every_error_of_both_packages_is_about_data() -> None:
    found = public_errors()
    assert found.pop("DataError") == {"ValueError"}
    assert len(found) >= 14
    assert {name: bases for name, bases in found.items() if not bases & {"DataError", *found}} == {}


@pytest.mark.parametrize("error", [DataError, DatasetError, WeightsError])
def test_a_stage_that_fails_by_it_failed_by_its_data(error: type[DataError]) -> None:
    from_a_worker = pickle.loads(pickle.dumps(error("a.parquet: not a table")))  # noqa: S301 # our own
    assert classify(from_a_worker) is FailureClass.DATA
    assert str(from_a_worker) == "a.parquet: not a table"
