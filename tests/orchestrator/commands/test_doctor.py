"""`illume doctor`: every check is reported; versions of packages and the text of findings."""

import tomllib
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from orchestrator.commands.doctor import Finding, finding_text, package_finding, python_finding, requirements
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


@pytest.mark.parametrize(("wanted", "is_ok"), [("pytest>=0.9", True), ("pytest>=999.0", False), ("pytest<1", False)])
def test_a_package_must_be_in_the_supported_range(wanted: str, is_ok: bool) -> None:
    finding = package_finding(Requirement(wanted))
    assert finding.is_ok is is_ok
    assert finding.advice == f"pip install '{wanted}'"


def test_a_missing_package_is_a_problem() -> None:
    finding = package_finding(Requirement("illume-no-such-package>=1.0"))
    assert (finding.is_ok, finding.found) == (False, "not installed")


@pytest.mark.parametrize(
    ("version", "is_ok"), [("3.10.14", False), ("3.11.0", True), ("3.13.9", True), ("3.14.0", False)]
)
def test_pythons_are_those_of_the_metadata(version: str, is_ok: bool) -> None:
    assert python_finding(version).is_ok is is_ok


def test_the_bounds_are_those_of_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert {str(need) for need in requirements()} == {str(Requirement(line)) for line in project["dependencies"]}


def test_only_a_problem_shows_its_advice() -> None:
    texts = [
        click.unstyle(finding_text(Finding(name="disk", is_ok=is_ok, found="1 GiB free", advice="make room")))
        for is_ok in (True, False)
    ]
    assert texts == ["ok       disk: 1 GiB free", "problem  disk: 1 GiB free; make room"]


def test_doctor_reports_every_check(illume: Illume) -> None:
    findings = {finding["name"]: finding for finding in illume("doctor", "--json").data["findings"]}
    assert {"python", "ray", "torch", "store", "database", "disk", "memory", "extra ui"} <= findings.keys()
    assert findings["store"]["is_ok"]
