"""Every page is made from a template that escapes what it is given, and every template is part of the package."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
TEMPLATES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("templates/*"))
SERVED = "orchestrator/web/templates/"  # pages of a service, which load its own files; all others are single files
SOURCES = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
ELEMENT = re.compile(r"</?(?:html|head|body|div|table|tr|td|th|h[1-6]|figure|script|style)\b[^<>]*>")


def test_every_template_is_package_data() -> None:
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packages = {".".join(file.parent.parent.relative_to(ROOT).parts) for file in TEMPLATES}
    assert packages
    assert [package for package in packages if "templates/*" not in package_data.get(package, [])] == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.name)
def test_no_template_switches_escaping_off_or_loads_anything(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    if template.relative_to(ROOT).as_posix().startswith(SERVED):
        text = re.sub(r"<script src=\"{{ static\([^)]*\) }}\"( defer)?></script>", "", text)
    assert re.findall(r"\|\s*safe\b|\bautoescape\b|<script|https?:", text) == []
    assert ("<html" in text) == (template.name == "base.html"), "pages extend base.html, which forbids running anything"


def test_no_source_writes_elements_itself() -> None:
    found = {
        file.relative_to(ROOT).as_posix(): node.value
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ELEMENT.search(node.value)
    }
    assert found == {}, "put them into a template"
