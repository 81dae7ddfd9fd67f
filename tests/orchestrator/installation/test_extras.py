"""Extras: the table is that of pyproject; a missing one is named with its purpose and its command."""

import tomllib
from pathlib import Path

import pytest

from orchestrator.errors import EXIT_UNUSABLE, MissingExtraError
from orchestrator.history.database.database import Database
from orchestrator.installation import extras
from orchestrator.installation.extras import EXTRAS, Extra, install_command, is_installed, require_extra

ROOT = Path(__file__).parents[3]


def test_the_table_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"])
    assert install_command("ui") == f"pip install '{project['name']}[ui]'"


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Extra(module="no_such_module_anywhere", purpose="drawing moons")
    monkeypatch.setattr(extras, "EXTRAS", {**EXTRAS, "ui": absent})
    assert not is_installed("ui")
    with pytest.raises(
        MissingExtraError, match=r"drawing moons needs .* pip install 'illume-orchestrator\[ui\]'"
    ) as error:
        require_extra("ui")
    assert error.value.exit_code == EXIT_UNUSABLE


def test_a_database_without_its_driver_is_refused_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Extra(module="no_such_module_anywhere", purpose="an index database on PostgreSQL")
    monkeypatch.setattr(extras, "EXTRAS", {"postgresql": absent})
    with pytest.raises(MissingExtraError, match=r"illume-orchestrator\[postgresql\]"):
        Database("postgresql://user@127.0.0.1:1/none")
