"""The package: every import is declared, markers of types are there, and `make` refuses an unfit machine."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ROOMS = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_INSTALLED_BY_US = {
    "_typeshed": "exists for type checkers only",
    "lmms_eval": "our class is loaded by lmms-eval, never the other way round",
    "turns": "lies beside the benchmarks, which run as scripts",
}


def distribution(requirement: str) -> str:
    return _normal(Requirement(requirement).name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_roots(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(file, top-level module) of each import that is neither ours nor the standard library's."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names.append(node.module)
                for root in {name.partition(".")[0] for name in names}:
                    if root not in sys.stdlib_module_names and root not in {*ROOMS, "tests"}:
                        yield str(file.relative_to(ROOT)), root


def declared(*, with_tests: bool) -> set[str]:
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    if with_tests:
        lines += PYPROJECT["dependency-groups"]["test"]
    return {distribution(line) for line in lines}


@pytest.mark.parametrize(("folders", "with_tests"), [(ROOMS, False), (("tests",), True)])
def test_every_import_is_declared(folders: tuple[str, ...], with_tests: bool) -> None:
    providers = importlib.metadata.packages_distributions()
    names = declared(with_tests=with_tests)
    undeclared = {
        f"{file}: {root}"
        for file, root in imported_roots(folders)
        if root not in NOT_INSTALLED_BY_US and not names & {_normal(name) for name in providers.get(root, [root])}
    }
    assert not undeclared


def test_every_dependency_has_a_lower_bound_that_the_lock_satisfies() -> None:
    lock = {
        _normal(pin.name): str(pin.specifier).removeprefix("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
        for pin in [Requirement(line)]
    }
    for line in [
        *PYPROJECT["project"]["dependencies"],
        *(line for extra in PYPROJECT["project"]["optional-dependencies"].values() for line in extra),
    ]:
        requirement = Requirement(line)
        assert any(spec.operator == ">=" for spec in requirement.specifier), line
        assert requirement.specifier.contains(lock[_normal(requirement.name)]), line


def test_hashes_name_files_of_locked_versions_and_never_torch() -> None:
    locked = set((ROOT / "constraints.txt").read_text().splitlines())
    lines = [line for line in (ROOT / "hashes.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    for line in lines:
        pin, digest = line.split(" --hash=sha256:")
        assert pin.strip() in locked
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert not pin.startswith("torch=")


def test_each_room_is_marked_as_typed() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "py.typed").is_file()] == []
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["*"]


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machine", ROOT / ".ci" / "machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_knows_the_pythons_of_the_metadata(machine: ModuleType) -> None:
    oldest, newest = machine.OLDEST, machine.NEWEST
    wanted = f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    assert PYPROJECT["project"]["requires-python"] == wanted
    named = [line.rpartition(" ")[2] for line in PYPROJECT["project"]["classifiers"] if ":: 3." in line]
    assert named == [f"3.{minor}" for minor in range(oldest[1], newest[1] + 1)]


@pytest.mark.parametrize("python", [(3, 10), (3, 14), (2, 7)])
def test_a_python_that_is_too_old_or_too_new_is_refused(
    machine: ModuleType, python: tuple[int, int], tmp_path: Path
) -> None:
    (problem,) = machine.find_problems(str(tmp_path), python, "cpu")
    assert f"found {python[0]}.{python[1]}" in problem
    assert "make PYTHON=" in problem


def test_a_disk_without_room_is_refused(machine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(machine.find_problems(str(tmp_path / "a" / "b"), (3, 11), "cpu")) == []
    monkeypatch.setitem(machine.NEEDED_GIB, "cpu", 10**9)
    (problem,) = machine.find_problems(str(tmp_path / "a" / "b"), (3, 11), "cpu")
    assert str(tmp_path) in problem
    assert "make VENV=" in problem
