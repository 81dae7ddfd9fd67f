"""Runs tests against one mutant after another: in forks of one pytest that has imported and collected everything once.

Mutants that change what runs at import need a new process each.
"""

import ast
import json
import os
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import pytest

from tests.mutation.functions import Place, changed_functions, live_functions, put_in_place
from tests.mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).with_name("hook")
PYTEST = ("-m", "not slow and not gpu and not ray", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "-q")
MAX_TESTS_S = 40.0  # of tests against one mutant, by their durations without it
TIMEOUT_S, TIMEOUT_FACTOR = 20.0, 4.0  # for one mutant; a test that hangs has noticed it
TOO_SLOW = -signal.SIGKILL  # how a process ends that took longer


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Which tests ran which lines of the modules, and how long they take."""

    tests: Mapping[tuple[str, int], frozenset[str]]  # by file and line; "" stands for what ran at import
    seconds: Mapping[str, float]
    failed: frozenset[str]  # when they were traced; left out of `tests`

    def runs_at_import(self, file: str, line: int) -> bool:
        return "" in self.tests.get((file, line), frozenset())

    def fastest(self, file: str, line: int) -> list[str]:
        """The tests that ran a line, the fastest first, as many as the time for one mutant allows."""
        tests = self.tests.get((file, line), frozenset())
        if "" in tests:  # a constant, a default: whatever else ran the file may depend on it
            tests = frozenset().union(*(ran for (other, _), ran in self.tests.items() if other == file))
            if tests == {""}:  # nothing but tables: any test may
                tests = frozenset(self.seconds) - self.failed
        total_s, chosen = 0.0, []
        for test in sorted(tests - {""}, key=lambda test: (self.seconds.get(test, 0.0), test)):
            total_s += self.seconds.get(test, 0.0)
            if chosen and total_s > MAX_TESTS_S:
                break
            chosen.append(test)
        return chosen


@dataclass(eq=False)  # pluggy keeps plugins in sets
class Runner:
    """A plugin of pytest: instead of running the tests it collected, it calls `work` with itself."""

    files: Sequence[Path]  # the modules that will be mutated
    work: Callable[["Runner"], None]
    traced: Traced = field(init=False)
    _folder: Path = field(init=False)
    _hook: dict[str, Any] = field(init=False)
    _session: pytest.Session = field(init=False)
    _items: dict[str, pytest.Item] = field(init=False)
    _sources: dict[Path, str] = field(init=False)  # as mutants are written, without comments
    _live: dict[Path, dict[Place, list[FunctionType]]] = field(init=False)
    _seconds: Counter[str] = field(init=False, default_factory=Counter)
    _failed: set[str] = field(init=False, default_factory=set)

    def run(self, tests: Sequence[str]) -> int:
        """Collect the tests, trace them, and call `work`. Returns pytest's exit code; 0 if it could be called."""
        with tempfile.TemporaryDirectory() as folder:
            targets = os.pathsep.join(map(str, self.files))
            os.environ.update(MUTATION_TRACE=folder, MUTATION_TARGETS=targets, OMP_NUM_THREADS="1")
            os.environ["PYTHONPATH"] = os.pathsep.join([str(HOOK), str(ROOT)])
            self._hook = runpy.run_path(str(HOOK / "sitecustomize.py"))  # notes what runs at import
            self._folder = Path(folder)
            return int(pytest.main([*PYTEST, *tests], plugins=[self]))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._session = session
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        self._items = {item.nodeid: item for item in session.items}
        self._trace()
        self._sources = {file: ast.unparse(ast.parse(file.read_text())) for file in self.files}
        self._live = {file: live_functions(file.read_text(), str(file)) for file in self.files}
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def _trace(self) -> None:
        """Run all tests in a fork, noting the lines that each runs."""
        notes = self._folder / "durations"

        def traced_run() -> int:
            self._run_items(list(self._items.values()), stop=False)
            self._hook["write_lines"]()
            notes.write_text(json.dumps({"seconds": self._seconds, "failed": sorted(self._failed)}))
            return 0

        code = _wait(_fork(traced_run), timeout_s=float("inf"))
        if code:
            raise self._session.Interrupted(f"the tests could not be traced: their process ended with {code}")
        self._hook["stop_tracing"]()
        del os.environ["MUTATION_TRACE"]
        noted = json.loads(notes.read_text())
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for part in self._folder.glob("*.json"):
            for test, ran in json.loads(part.read_text()).items():
                for file, line in ran:
                    found[file, line].add(test)
        failed = frozenset(noted["failed"])
        tests = {place: frozenset(names - failed) for place, names in found.items()}
        self.traced = Traced(tests=tests, seconds=noted["seconds"], failed=failed)

    def try_mutant(self, file: Path, mutant: Mutant) -> str:
        """What becomes of a mutant: noticed, too slow, unnoticed."""
        tests = self.traced.fastest(str(file), mutant.line)
        if not tests:
            return "unnoticed"
        timeout_s = TIMEOUT_S + TIMEOUT_FACTOR * sum(self.traced.seconds.get(test, 0.0) for test in tests)
        changed = None
        if not self.traced.runs_at_import(str(file), mutant.line):
            changed = changed_functions(self._sources[file], mutant.source, str(file))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "mutant.py"
            source.write_text(mutant.source)
            environment = {
                "MUTATION_FILE": str(file),
                "MUTATION_SOURCE": str(source),
                "PYTEST_DEBUG_TEMPROOT": folder,
            }

            def mutated_run() -> int:
                os.environ.update(environment)  # for processes that tests start, too
                if changed is None:
                    _run_anew(tests)
                put_in_place(changed, self._live[file])
                return self._run_items([self._items[test] for test in tests], stop=True)

            def unchanged_run() -> int:
                if changed is None:
                    _run_anew(tests)
                return self._run_items([self._items[test] for test in tests], stop=True)

            code = _wait(_fork(mutated_run), timeout_s)
            while code == TOO_SLOW and _wait(_fork(unchanged_run), timeout_s) == TOO_SLOW:  # the machine is
                timeout_s *= 2
                code = _wait(_fork(mutated_run), timeout_s)
        return {0: "unnoticed", TOO_SLOW: "too slow"}.get(code, "noticed")

    def _run_items(self, items: Sequence[pytest.Item], *, stop: bool) -> int:
        """In a fork: run tests, up to the first failure if `stop` is set. Returns 1 if one failed."""
        session = self._session
        session.config.pluginmanager.unregister(name="terminalreporter")
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed and stop:
                break
        code = int(session.testsfailed > 0)
        session.config.hook.pytest_sessionfinish(session=session, exitstatus=code)
        return code


def _run_anew(tests: Sequence[str]) -> NoReturn:
    """Run tests in a new pytest in the place of this process, up to the first failure."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *PYTEST, "-x", *tests])


def _fork(work: Callable[[], int]) -> int:
    """Process id of a fork, the leader of a group of its own, that does some work and ends with its result."""
    child = os.fork()
    return child if child else _end_with(work)


def _end_with(work: Callable[[], int]) -> NoReturn:
    code = 1
    try:
        os.setpgrp()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        code = work()
    finally:
        os._exit(code)


def _wait(child: int, timeout_s: float) -> int:
    """Exit code of a child; it is killed if it takes too long, and whatever it has started with it."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended and time.monotonic() > give_up_at:
            os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0)
        if ended:
            break
        time.sleep(0.005)
    with suppress(ProcessLookupError):  # nothing was left
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)
