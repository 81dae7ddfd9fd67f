"""The rooms of the house import only what they may, and what a laptop does stays light."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "ray", "mlflow", "transformers", "diffusers"}
COMMAND = "from orchestrator.cli import exit_code; code = exit_code({arguments!r}); assert code == 0, code"
LIST_LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"


def packages_loaded(code: str, folder: Path) -> set[str]:
    """Top-level packages that a fresh Python holds after `code`."""
    command = [sys.executable, "-c", f"{code}\n{LIST_LOADED}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_every_room_imports_only_what_it_may() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("room", ["stages", "clusters", "orchestrator"])
def test_importing_a_room_loads_nothing_heavy(room: str, tmp_path: Path) -> None:
    assert packages_loaded(f"import {room}", tmp_path).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["recipes"],
        ["plan", "quickstart"],
        ["status"],
        ["status", "--json"],
        ["gc"],
        ["verify"],
        ["index", "rebuild"],
    ],
    ids=" ".join,
)
def test_looking_loads_nothing_heavy(arguments: Sequence[str], tmp_path: Path) -> None:
    assert packages_loaded(COMMAND.format(arguments=list(arguments)), tmp_path).isdisjoint(HEAVY)


def test_configurations_need_no_third_party_but_pydantic(tmp_path: Path) -> None:
    files = [file for room in ("models", "data_pipelines", "stages") for file in (ROOT / room).rglob("*config.py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    assert len(names) > 5
    loaded = packages_loaded(f"import {', '.join(names)}", tmp_path)
    allowed = {"models", "data_pipelines", "stages", "orchestrator", "pydantic", "pydantic_core", "typing_extensions"}
    third_party = {name for name in loaded - allowed - sys.stdlib_module_names if not name.startswith("_")}
    assert third_party <= {"annotated_types", "typing_inspection"} | bare_packages(tmp_path)


def bare_packages(folder: Path) -> set[str]:
    """What a Python of this environment loads before anything is imported."""
    return packages_loaded("", folder)


def test_help_answers_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The time is shown, not judged: the promise of half a second is for a quiet machine."""
    illume = Path(sys.executable).with_name("illume")
    times_s = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([str(illume), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        times_s.append(time.perf_counter() - began)
        assert "resume" in done.stdout
    with capsys.disabled():
        sys.stdout.write(f"\nillume --help: {min(times_s):.2f} s\n")
    assert list(tmp_path.iterdir()) == []  # looking for help leaves nothing behind
