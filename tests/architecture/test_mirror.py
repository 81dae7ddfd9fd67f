"""`tests/` mirrors the tree: `a/b/c.py` is tested by `tests/a/b/test_c.py`, or is listed with the covering test."""

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from orchestrator.planning.code_digest import code_digest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
COVERED_ELSEWHERE = Path(__file__).with_name("covered_elsewhere.toml")
COMMANDS = "orchestrator/commands/"  # imported by name, so that the imports of a test do not lead to them
FRONT_DOOR = "orchestrator/cli.py"


def mirror_of(source: str) -> str:
    path = Path(source)
    return f"tests/{path.parent}/test_{path.name}"


def sources() -> list[str]:
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return sorted(file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py")


def covered_elsewhere() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(COVERED_ELSEWHERE.read_text())["sources"]


@lru_cache
def imported_by(module: str) -> frozenset[str]:
    return frozenset(code_digest(module, ROOT, packages=("tests", *PACKAGES)).files)


def reached_by(test: str) -> set[str]:
    """Files that a test imports, directly or through others, at any depth; with the command line all commands too."""
    reached = set(imported_by(test.removesuffix(".py").replace("/", ".")))
    if FRONT_DOOR in reached:
        for command in (ROOT / COMMANDS).glob("*.py"):
            reached |= imported_by(f"orchestrator.commands.{command.stem}")
    return reached


def test_each_source_file_has_a_test_of_its_name_or_is_listed_with_a_reason() -> None:
    listed = covered_elsewhere()
    untested = [source for source in sources() if not (ROOT / mirror_of(source)).exists() and source not in listed]
    assert untested == [], f"write {mirror_of(untested[0])}, or list it in {COVERED_ELSEWHERE.name}"


def test_the_list_holds_nothing_that_is_gone_or_has_its_own_test() -> None:
    known = set(sources())
    stale = [source for source in covered_elsewhere() if source not in known or (ROOT / mirror_of(source)).exists()]
    assert stale == [], f"strike them from {COVERED_ELSEWHERE.name}"


def test_the_test_that_is_named_exists_and_reaches_the_file() -> None:
    listed = covered_elsewhere()
    reached = {test: reached_by(test) for test in {entry["test"] for entry in listed.values()}}
    missed = [source for source, entry in listed.items() if source not in reached[entry["test"]]]
    assert missed == []
    assert [source for source, entry in listed.items() if not entry["reason"].strip()] == []


def test_each_test_file_mirrors_a_source_or_is_listed() -> None:
    mirrors = {mirror_of(source) for source in sources()}
    others = tomllib.loads(COVERED_ELSEWHERE.read_text())["other_tests"]
    files = (file for package in PACKAGES for file in (ROOT / "tests" / package).rglob("test_*.py"))
    found = {file.relative_to(ROOT).as_posix() for file in files} - mirrors
    assert found == set(others), "name a test after the file it tests, or list it under other_tests with a reason"


def test_every_test_that_a_readme_names_exists() -> None:
    named = {
        (readme.relative_to(ROOT).as_posix(), name)
        for package in PACKAGES
        for readme in (ROOT / package).rglob("README.md")
        for name in re.findall(r"`((?:\w+/)+test_\w+\.py)`", readme.read_text())
    }
    assert len(named) > 20
    assert [
        entry for entry in sorted(named) if not any((ROOT / top / entry[1]).is_file() for top in ("", "tests"))
    ] == []
