"""The root of each package says what is public, and all of it exists."""

import importlib
import re

import pytest

ROOMS = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
NAME = re.compile(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`")


@pytest.mark.parametrize("room", ROOMS)
def test_the_root_of_a_package_names_what_is_public_with_an_example(room: str) -> None:
    text = str(importlib.import_module(room).__doc__)
    assert "\nPublic, and changed only with a note in CHANGELOG.md" in text
    assert "\nExample: `" in text
    names = NAME.findall(text)
    assert names
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name  # the name is text of a docstring


def test_names_that_follow_a_public_module_are_in_it() -> None:
    """ "- `a.b`: `C`, what it does" means `a.b.C`."""
    found = [
        (module, attribute)
        for room in ROOMS
        for module, attribute in re.findall(r"- `([\w.]+)`: `(\w+)`,", str(importlib.import_module(room).__doc__))
    ]
    assert len(found) > 5
    assert [pair for pair in found if not hasattr(importlib.import_module(pair[0]), pair[1])] == []
