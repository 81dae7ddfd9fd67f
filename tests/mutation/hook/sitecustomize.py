"""In every process of a mutation run: puts a mutant in the place of its module, or notes which lines each test runs.

`MUTATION_FILE` names the module's file and `MUTATION_SOURCE` the file with the mutant. `MUTATION_TRACE` is a folder:
each process writes there which lines of the files in `MUTATION_TARGETS` ran under which test.
"""

import json
import multiprocessing.util
import os
import sys
import threading
from collections import defaultdict
from importlib.machinery import SourceFileLoader

if mutated := os.environ.get("MUTATION_FILE"):
    _original = SourceFileLoader.get_code

    def _get_code(self, fullname):  # type: ignore[no-untyped-def]
        if os.path.realpath(self.get_filename(fullname)) != mutated:
            return _original(self, fullname)
        with open(os.environ["MUTATION_SOURCE"]) as file:  # past the cache of compiled files
            return compile(file.read(), mutated, "exec")

    SourceFileLoader.get_code = _get_code  # type: ignore[method-assign]

if folder := os.environ.get("MUTATION_TRACE"):
    _targets = frozenset(os.environ["MUTATION_TARGETS"].split(os.pathsep))
    _seen = defaultdict(set)

    def _line(frame, event, _argument):  # type: ignore[no-untyped-def]
        if event == "line":
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            _seen[test].add((frame.f_code.co_filename, frame.f_lineno))
        return _line

    def _call(frame, _event, _argument):  # type: ignore[no-untyped-def]
        return _line if frame.f_code.co_filename in _targets else None

    def write_lines() -> None:
        """Write what has been noted in this process and, until it was forked, in its parent."""
        lines = {test: sorted(found) for test, found in _seen.items()}
        with open(os.path.join(folder, f"{os.getpid()}.json"), "w") as file:
            json.dump(lines, file)

    # Processes of multiprocessing run no atexit functions.
    _at_exit = multiprocessing.util.Finalize(None, write_lines, exitpriority=0)

    def stop_tracing() -> None:
        _at_exit.cancel()
        threading.settrace(None)  # type: ignore[arg-type]
        sys.settrace(None)

    threading.settrace(_call)
    sys.settrace(_call)
