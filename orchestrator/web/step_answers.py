"""Answers to "what did this step learn from?": computed in processes of their own, kept, as they never change."""

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_ANSWERS = 200
MAX_PROCESSES = 2
LIMIT_S = 600.0

Answer = Mapping[str, Any]  # {"samples": [...], "problem": text}
Compute = Callable[[Sequence[str]], Answer]


def compute(arguments: Sequence[str]) -> Answer:
    """The answer of a process of `step_process`."""
    command = [sys.executable, "-m", "orchestrator.web.step_process", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        found: Answer = json.loads(done.stdout)
        return found
    except subprocess.TimeoutExpired:
        return {"samples": [], "problem": f"it took longer than {LIMIT_S:.0f} s; `illume trace` has no limit"}
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return {"samples": [], "problem": lines[-1] if lines else f"its process ended with {done.returncode}"}


@dataclass(kw_only=True)
class StepAnswers:
    """The answers so far. Thread-safe."""

    compute: Compute = compute
    _known: OrderedDict[tuple[str, ...], Answer | None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_PROCESSES))

    def ask(self, *arguments: str) -> Answer | None:
        """The answer; None while it is computed. What failed is asked again the next time."""
        with self._lock:
            if arguments in self._known:
                found = self._known[arguments]
                if found is not None and found["problem"]:
                    del self._known[arguments]
                return found
            self._known[arguments] = None
            while len(self._known) > MAX_ANSWERS:
                self._known.popitem(last=False)
        threading.Thread(target=self._answer, args=(arguments,), name="samples of a step", daemon=True).start()
        return None

    def _answer(self, arguments: tuple[str, ...]) -> None:
        with self._free:
            found = self.compute(arguments)
        with self._lock:
            self._known[arguments] = found
