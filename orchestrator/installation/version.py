"""Which version of this package runs, and from which commit it was built."""

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = "illume-orchestrator"


def version() -> str:
    """The semantic version, for instance `0.2.0`."""
    return importlib.metadata.version(PACKAGE)


def commit(package: Path = Path(__file__).parents[1]) -> str:
    """The abbreviated commit, with `-dirty` for a changed checkout; "" where nobody knows.

    A wheel carries it in `orchestrator/COMMIT` (`setup.py`); in a checkout git is asked.
    """
    recorded = package / "COMMIT"
    if recorded.is_file():
        return recorded.read_text().strip()
    if not (
        package.parent / ".git"
    ).exists():  # otherwise git would answer for a checkout that only holds the environment
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match=no-tag"]
    try:
        answer = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


@cache
def version_text() -> str:
    """`0.2.0 (commit 1a2b3c4d5e6f)`, what `illume --version` prints."""
    built_from = commit()
    return f"{version()} (commit {built_from})" if built_from else version()
