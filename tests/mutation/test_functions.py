"""Mutated functions take the place of those of an imported module; what ran at import is left alone."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutation.functions import changed_functions, live_functions, put_in_place

SOURCE = """
LIMIT = 3
TABLE = [n + 1 for n in range(3)]

def f(x, y=0):
    return x + y + LIMIT

class Thing:
    size = 4

    def __init__(self, start):
        self.start = start

    @property
    def count(self):
        if self.start > any(n > 8 for n in range(3)):
            return [self.start + n for n in range(2)]

def adder(n):
    def add(x):
        return x + n
    return add

three = adder(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "module_for_mutants.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("old", "new", "call", "before", "after"),
    [
        ("x + y + LIMIT", "x - y + LIMIT", lambda m: m.f(1, 2), 6, 2),
        ("self.start + n", "self.start - n", lambda m: m.Thing(5).count, [5, 6], [5, 4]),
        ("self.start > any(n > 8 for n in range(3))", "self.start > 8", lambda m: m.Thing(5).count, [5, 6], None),
        ("return x + n", "return x - n", lambda m: (m.three(1), m.adder(1)(1)), (4, 2), (-2, 0)),
    ],
)
def test_functions_get_the_code_of_the_mutant(
    file: Path, old: str, new: str, call: Callable[[object], object], before: object, after: object
) -> None:
    spec = importlib.util.spec_from_file_location("module_for_mutants", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert call(module) == before
    changed = changed_functions(SOURCE, SOURCE.replace(old, new), str(file))
    assert changed is not None
    put_in_place(changed, live_functions(SOURCE, str(file)))
    assert call(module) == after
    assert "module_for_mutants" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("n + 1 for", "n - 1 for"), ("y=0", "y=1"), ("size = 4", "size = 5"), ("x + n", "x")],
)
def test_a_change_of_what_runs_at_import_needs_a_new_process(old: str, new: str) -> None:
    assert changed_functions(SOURCE, SOURCE.replace(old, new), "module.py") is None
    assert changed_functions(SOURCE, SOURCE, "module.py") == {}
