"""A service in a process of its own and one Chromium, for tests of the pages as people see them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
BRING = "apt-get install chromium; pip install playwright axe-playwright-python -c constraints.txt"
START_S = 60.0
SERVE = "import sys; from orchestrator.cli import main; sys.argv[0] = 'illume'; main()"
PICTURES_FOLDER = "ILLUME_TEST_PICTURES"  # where the pictures of a test run are kept


@contextmanager
def running_chromium() -> "Iterator[Browser]":
    """The browser of the distribution; without it the tests are skipped with the command that brings it."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs Chromium: {BRING}")
    api = pytest.importorskip("playwright.sync_api", reason=f"needs Playwright: {BRING}")
    pytest.importorskip("axe_playwright_python", reason=f"needs axe: {BRING}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass(kw_only=True)
class Server:
    """`illume serve` over a workspace. It can be killed and started again at the same port."""

    root: Path
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--port", str(self.port)],
            env={**os.environ, "ILLUME_HOME": str(self.root)},
            cwd=self.root.parent,
            stdout=(self.root.parent / "serve.txt").open("ab"),
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, (self.root.parent / "serve.txt").read_text()
            assert time.monotonic() < end, "the service did not start"
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
