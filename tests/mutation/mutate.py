"""Changes modules a little, one change at a time, and looks whether a test notices.

    make mutate MODULES="stages/training/loop.py data_pipelines/training_data" SEED=7 MINUTES=20

Mutants are drawn in an order that follows from the seed, in turn from each module, until the time is over. Against each
mutant only the tests that run its line are run, the fastest first. Tests that are marked slow or ray, and those of
tests/chaos and tests/end_to_end, are left out. `equivalents.toml` lists mutants that change nothing, with reasons.
Exits with 1 if one module has less than 95 % of the rest noticed.
"""

import random
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import click

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
LEFT_OUT = ("tests/chaos/", "tests/end_to_end/", "tests/architecture/", "tests/benchmarks/", "tests/mutation/")
WANTED_SHARE = 0.95


@dataclass(kw_only=True)
class Tally:
    """What became of the mutants of one module."""

    results: Counter[str] = field(default_factory=Counter)  # noticed, too slow, unnoticed, equivalent

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
@click.option("-k", "words", default="", help="As of pytest, e.g. 'not postgresql' where no server should be started.")
@click.option("--only", default="", help="Try only mutants whose name contains this.")
def main(modules: tuple[str, ...], seed: int, minutes: float, tests: tuple[str, ...], words: str, only: str) -> None:
    """Try mutants of MODULES (files or folders, relative to the repository)."""
    files = sorted(file for module in modules for file in _python_files(ROOT / module))
    tallies: dict[str, Tally] = defaultdict(Tally)
    began = time.monotonic()

    def work(runner: Runner) -> None:
        for test in sorted(runner.traced.failed):
            click.echo(f"left out, as it fails when it is traced: {test}")
        click.echo(f"{len(runner.traced.seconds)} tests, traced in {time.monotonic() - began:.0f} s; seed {seed}")
        drawn = _in_turn(files, random.Random(seed))
        chosen = ((file, mutant) for file, mutant in drawn if only in mutant.name)
        try:
            _try_all(runner, chosen, tallies, ends_at=time.monotonic() + 60 * minutes)
        finally:  # also after Ctrl-C
            _print_table(tallies)

    code = Runner(files=files, work=work).run([*(tests or tests_of(files)), "-k", words])
    sys.exit(code or any(tally.share < WANTED_SHARE for tally in tallies.values()))


def _try_all(
    runner: Runner, mutants: Iterable[tuple[Path, Mutant]], tallies: Mapping[str, Tally], *, ends_at: float
) -> None:
    equivalents = tomllib.loads(EQUIVALENTS.read_text())
    for file, mutant in mutants:
        if time.monotonic() > ends_at:
            break
        name = file.relative_to(ROOT).as_posix()
        is_equivalent = mutant.name in equivalents.get(name, {})
        result = "equivalent" if is_equivalent else runner.try_mutant(file, mutant)
        tallies[name].results[result] += 1
        if result == "unnoticed":
            click.echo(f"{name}:{mutant.line}: {mutant.name}")


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


def _in_turn(files: Sequence[Path], rng: random.Random) -> Iterator[tuple[Path, Mutant]]:
    """One mutant of each file, then a second one of each, and so on."""
    shuffled = []
    for file in files:
        mutants = mutants_of(file.read_text())
        rng.shuffle(mutants)
        shuffled.append([(file, mutant) for mutant in mutants])
    for row in zip_longest(*shuffled):
        yield from (entry for entry in row if entry is not None)


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
