"""Files that pages load: unchanged copies of what others made, nothing from other hosts, nothing inline."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

import orchestrator.web

WEB = Path(orchestrator.web.__file__).parent
VENDOR = WEB / "static/vendor"
VENDORED = tomllib.loads((VENDOR / "vendored.toml").read_text())
OWN = [path for path in (WEB / "static").rglob("*") if path.suffix in {".js", ".css"} and path.parent != VENDOR]
TEMPLATES = sorted((WEB / "templates").glob("*.html"))


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_made_is_unchanged_and_has_its_licence(name: str) -> None:
    entry = VENDORED[name]
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == entry["sha256"]
    assert re.search("licen[sc]e|permission", (VENDOR / entry["licence"]).read_text(), re.IGNORECASE)


def test_every_vendored_file_is_in_the_table() -> None:
    listed = {*VENDORED, *(entry["licence"] for entry in VENDORED.values()), "vendored.toml"}
    assert {path.name for path in VENDOR.iterdir()} == listed


@pytest.mark.parametrize("path", [*OWN, *TEMPLATES], ids=lambda path: path.name)
def test_nothing_is_loaded_from_another_host(path: Path) -> None:
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[a-z0-9-]+\.[a-z]", path.read_text().replace("://", "//"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_style_script_or_handler_that_the_policy_would_refuse(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|\|\s*safe\b", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_each_colour_of_dark_is_defined_for_preference_and_for_choice_alike() -> None:
    tokens = (WEB / "static/css/tokens.css").read_text()
    preferred = re.search(r'data-theme="light"\]\) \{(.*?)\n  \}', tokens, re.DOTALL)
    chosen = re.search(r'data-theme="dark"\] \{(.*?)\n\}', tokens, re.DOTALL)
    assert preferred is not None
    assert chosen is not None
    assert preferred[1].split() == chosen[1].split()


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_can_be_read_on_every_surface(scheme: str) -> None:
    tokens = (WEB / "static/css/tokens.css").read_text()
    head = r":root \{(.*?)\n\}" if scheme == "light" else r'data-theme="dark"\] \{(.*?)\n\}'
    found = re.search(head, tokens, re.DOTALL)
    assert found is not None
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", found[1]))
    states = ("made", "reused", "recovered", "running", "waiting", "failed", "lost", "warned", "cancelled", "idle")
    for text in ("text", "muted", "accent", *states):
        for surface in ("canvas", "surface", "sunken", "hover", "selected"):
            assert contrast(colours[text], colours[surface]) >= (4.5 if surface != "selected" else 4.2), (text, surface)
    for series in (name for name in colours if name.startswith("series-")):
        assert contrast(colours[series], colours["surface"]) >= 3.0, series
