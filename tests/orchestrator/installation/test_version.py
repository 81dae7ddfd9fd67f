"""The version is that of pyproject; the commit comes from the wheel's file, or else from the checkout."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import click.testing
import pytest

from orchestrator.cli import cli
from orchestrator.installation.version import commit, version, version_text

ROOT = Path(__file__).parents[3]


def test_the_version_is_that_of_pyproject_and_of_the_citation() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version() == declared
    assert f"\nversion: {declared}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_wheel_carries_its_commit(tmp_path: Path) -> None:
    (tmp_path / "COMMIT").write_text("1a2b3c4d5e6f\n")
    assert commit(tmp_path) == "1a2b3c4d5e6f"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt install git")
def test_a_checkout_is_asked_and_changes_in_it_show(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("a = 1\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    clean = commit(package)
    assert len(clean) == 12
    (package / "code.py").write_text("a = 2\n")
    assert commit(package) == f"{clean}-dirty"


def test_outside_a_checkout_nobody_knows(tmp_path: Path) -> None:
    assert commit(tmp_path / "package") == ""


def test_the_command_line_prints_both() -> None:
    result = click.testing.CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"illume {version_text()}\n")
