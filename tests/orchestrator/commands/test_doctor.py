"""`illume doctor`: every check is reported; versions of packages and the text of findings."""

import click
import pytest

from orchestrator.commands.doctor import Finding, finding_text, package_finding
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


@pytest.mark.parametrize(("oldest", "is_ok"), [("0.9", True), ("999.0", False)])
def test_a_package_must_be_new_enough(oldest: str, is_ok: bool) -> None:
    finding = package_finding("pytest", oldest)
    assert finding.is_ok is is_ok
    assert finding.advice == f"install {oldest} or newer"


def test_a_missing_package_is_a_problem() -> None:
    finding = package_finding("illume-no-such-package", "1.0")
    assert (finding.is_ok, finding.found) == (False, "not installed")


def test_only_a_problem_shows_its_advice() -> None:
    texts = [
        click.unstyle(finding_text(Finding(name="disk", is_ok=is_ok, found="1 GiB free", advice="make room")))
        for is_ok in (True, False)
    ]
    assert texts == ["ok       disk: 1 GiB free", "problem  disk: 1 GiB free; make room"]


def test_doctor_reports_every_check(illume: Illume) -> None:
    findings = {finding["name"]: finding for finding in illume("doctor", "--json").data}
    assert {"python", "ray", "torch", "store", "database", "disk", "memory"} <= findings.keys()
    assert findings["store"]["is_ok"]
