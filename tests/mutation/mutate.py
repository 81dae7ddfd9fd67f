"""Changes modules a little, one change at a time, and looks whether a test notices.

    make mutate MODULES="stages/training/loop.py data_pipelines/training_data" SEED=7 MINUTES=20

Mutants are drawn in an order that follows from the seed, in turn from each module, until the time is over. Against each
mutant only the tests that run its line are run, the fastest first. Tests that are marked slow or ray, and those of
tests/chaos and tests/end_to_end, are left out. `equivalents.toml` lists mutants that change nothing, with reasons.
Exits with 1 if one module has less than 95 % of the rest noticed.
"""

import ast
import importlib
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import click
import pytest

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).with_name("hook")
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
PACKAGES = ("tests", "orchestrator", "stages", "data_pipelines", "models", "clusters")
LEFT_OUT = ("tests/chaos/", "tests/end_to_end/", "tests/architecture/", "tests/benchmarks/", "tests/mutation/")
PYTEST = ("-m", "not slow and not gpu and not ray", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "-rfE")
WANTED_SHARE = 0.95
MAX_TESTS_S = 90.0  # of tests against one mutant, by their durations without it
_FAILED = re.compile(r"(FAILED|ERROR) ")
TIMEOUT_S, TIMEOUT_FACTOR = 20.0, 4.0  # for one mutant; a test that hangs has noticed it


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Which tests ran which lines of the modules, how long they take, and what they import of others."""

    tests: Mapping[tuple[str, int], frozenset[str]]  # by file and line; "" stands for what ran at import
    seconds: Mapping[str, float]
    modules: frozenset[str]  # imported by the tests, tests left out

    def fastest(self, file: str, line: int) -> list[str]:
        """The tests that ran a line, the fastest first, as many as the time for one mutant allows."""
        tests = self.tests.get((file, line), frozenset())
        if "" in tests:  # a constant, a default: whatever else ran the file may depend on it
            tests = frozenset().union(*(ran for (other, _), ran in self.tests.items() if other == file))
        total_s, chosen = 0.0, []
        for test in sorted(tests - {""}, key=lambda test: (self.seconds.get(test, 0.0), test)):
            total_s += self.seconds.get(test, 0.0)
            if chosen and total_s > MAX_TESTS_S:
                break
            chosen.append(test)
        return chosen


@dataclass(kw_only=True)
class Tally:
    """What became of the mutants of one module."""

    results: Counter[str] = field(default_factory=Counter)  # noticed, too slow, unnoticed, equivalent
    unnoticed: list[Mutant] = field(default_factory=list)

    @property
    def share(self) -> float:
        noticed = self.results["noticed"] + self.results["too slow"]
        tried = noticed + self.results["unnoticed"]
        return noticed / tried if tried else 1.0


@click.command()
@click.argument("modules", nargs=-1, required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--tests", multiple=True, help="Test files or folders; default: those that import one of the modules.")
@click.option("--only", default="", help="Try only mutants whose name contains this.")
def main(modules: tuple[str, ...], seed: int, minutes: float, tests: tuple[str, ...], only: str) -> None:
    """Try mutants of MODULES (files or folders, relative to the repository)."""
    files = sorted(file for module in modules for file in _python_files(ROOT / module))
    began = time.monotonic()
    traced = trace(files, tests or tests_of(files))
    click.echo(f"{len(traced.seconds)} tests, traced in {time.monotonic() - began:.0f} s; seed {seed}")
    for module in sorted(traced.modules):
        with suppress(Exception):
            importlib.import_module(module)  # once, instead of for each mutant
    dependents = {file: dependents_of(_module_name(file)) for file in files}
    ends_at = time.monotonic() + 60 * minutes
    equivalents = tomllib.loads(EQUIVALENTS.read_text())
    tallies: dict[str, Tally] = defaultdict(Tally)
    for file, mutant in _in_turn(files, random.Random(seed)):
        if time.monotonic() > ends_at:
            break
        if only not in mutant.name:
            continue
        name = file.relative_to(ROOT).as_posix()
        tally = tallies[name]
        result = (
            "equivalent" if mutant.name in equivalents.get(name, {}) else _try(file, mutant, traced, dependents[file])
        )
        tally.results[result] += 1
        if result == "unnoticed":
            tally.unnoticed.append(mutant)
            click.echo(f"{name}:{mutant.line}: {mutant.name}")
    _print_table(tallies)
    sys.exit(any(tally.share < WANTED_SHARE for tally in tallies.values()))


def _python_files(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [file for file in files if file.name != "__init__.py"]


def tests_of(files: Sequence[Path]) -> list[str]:
    """The test files that mirror the files, and the others that import one of their modules by name."""
    names = [file.relative_to(ROOT).as_posix() for file in files]
    mirrors = {f"tests/{Path(name).parent}/test_{Path(name).name}" for name in names}
    modules = [name.removesuffix(".py").replace("/", ".") for name in names]
    found = []
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        name, text = test.relative_to(ROOT).as_posix(), test.read_text()
        if not name.startswith(LEFT_OUT) and (name in mirrors or any(f"{module} import" in text for module in modules)):
            found.append(name)
    return found


def trace(files: Sequence[Path], tests: Sequence[str]) -> Traced:
    """Run the tests once, noting the lines that each runs. Raises: ClickException: they cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"MUTATION_TRACE": folder, "MUTATION_TARGETS": os.pathsep.join(map(str, files))}
        code, output = _run_traced(tests, environment)
        failed = {line.partition(" ")[2].partition(" - ")[0] for line in output.splitlines() if _FAILED.match(line)}
        if code not in (0, 1):
            raise click.ClickException(f"pytest ended with {code}:\n{output[-3000:]}")
        for test in sorted(failed):
            click.echo(f"left out, as it fails when it is traced: {test}")
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        modules: set[str] = set()
        for part in Path(folder).glob("*.json"):
            noted = json.loads(part.read_text())
            modules |= {name for name in noted["modules"] if name.partition(".")[0] not in ("tests", "__main__")}
            for test, ran in noted["lines"].items():
                for file, line in ran:
                    found[file, line].add(test)
    return Traced(
        tests={place: frozenset(names - failed) for place, names in found.items()},
        seconds=_durations(output),
        modules=frozenset(modules),
    )


def _durations(output: str) -> dict[str, float]:
    """Seconds of each test, with its fixtures, from what `--durations=0 -vv` prints."""
    seconds: dict[str, float] = defaultdict(float)
    for line in output.splitlines():
        first, _, rest = line.strip().partition("s ")
        phase, _, test = rest.strip().partition(" ")
        if phase in ("setup", "call", "teardown") and first.replace(".", "", 1).isdigit():
            seconds[test.strip()] += float(first)
    return seconds


def _in_turn(files: Sequence[Path], rng: random.Random) -> Iterator[tuple[Path, Mutant]]:
    """One mutant of each file, then a second one of each, and so on."""
    shuffled = []
    for file in files:
        mutants = mutants_of(file.read_text())
        rng.shuffle(mutants)
        shuffled.append([(file, mutant) for mutant in mutants])
    for row in zip_longest(*shuffled):
        yield from (entry for entry in row if entry is not None)


def _module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def dependents_of(module: str) -> frozenset[str]:
    """The modules of ours, of those that are loaded, that import a module, at once or through others; and itself."""
    importers: dict[str, set[str]] = defaultdict(set)
    for name, loaded in list(sys.modules.items()):
        path = getattr(loaded, "__file__", None) or ""  # built-in modules have none
        if name.partition(".")[0] in PACKAGES and path.endswith(".py"):
            for imported in _imports_of(ast.parse(Path(path).read_text())):
                importers[imported].add(name)
    found, new = {module}, {module}
    while new:
        new = {name for dependent in new for name in importers[dependent]} - found
        found |= new
    return frozenset(found)


def _imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _try(file: Path, mutant: Mutant, traced: Traced, dependents: frozenset[str]) -> str:
    tests = traced.fastest(str(file), mutant.line)
    if not tests:
        return "unnoticed"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "mutant.py"
        source.write_text(mutant.source)
        environment = {"MUTATION_FILE": str(file), "MUTATION_SOURCE": str(source)}
        expected_s = sum(traced.seconds.get(test, 0.0) for test in tests)
        code = _run_forked(["-x", *tests], environment, TIMEOUT_S + TIMEOUT_FACTOR * expected_s, dependents)
    return {0: "unnoticed", -signal.SIGKILL: "too slow"}.get(code, "noticed")


def _run_traced(tests: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of pytest in a process of its own, which keeps what it compiles for those to come."""
    environment = {**environment, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-m", "pytest", *PYTEST, "--durations=0", "-vv", *tests]
    done = subprocess.run(command, cwd=ROOT, env=_environment(environment), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float, changed: frozenset[str]
) -> int:
    """Exit code of pytest in a fork of this process, which has imported what tests need but for `changed` modules.

    It is killed if it takes too long.
    """
    child = os.fork()
    if child == 0:
        _become_pytest([*PYTEST, "-q", *arguments], environment, changed)
    give_up_at = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up_at:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.02)


def _become_pytest(arguments: Sequence[str], environment: Mapping[str, str], changed: frozenset[str]) -> NoReturn:
    """In a forked process: run pytest with the hook installed, as a new process would, and end."""
    code = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.environ.clear()
        os.environ.update(_ENVIRONMENT | _environment(environment))
        for name in [name for name in sys.modules if name in changed or name.partition(".")[0] == "tests"]:
            _forget(name)
        sys.dont_write_bytecode = True
        runpy.run_path(str(HOOK / "sitecustomize.py"))
        code = int(pytest.main(list(arguments)))
    finally:
        os._exit(code)


def _forget(name: str) -> None:
    """Let the next import of a module load it again."""
    del sys.modules[name]
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        vars(sys.modules[parent]).pop(child, None)


_ENVIRONMENT = dict(os.environ)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(HOOK), str(ROOT)])
    own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, **more}


def _print_table(tallies: Mapping[str, Tally]) -> None:
    click.echo(f"{'module':48} {'noticed':>8} {'too slow':>8} {'not':>5} {'equal':>6} {'share':>7}")
    for name, tally in sorted(tallies.items()):
        results = tally.results
        counts = " ".join(
            f"{results[result]:{width}}"
            for result, width in (("noticed", 8), ("too slow", 8), ("unnoticed", 5), ("equivalent", 6))
        )
        click.echo(f"{name:48} {counts} {tally.share:7.1%}")


if __name__ == "__main__":
    main()
