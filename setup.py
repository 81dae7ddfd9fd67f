"""Writes the commit that a wheel is built from into it; everything else is declared in `pyproject.toml`."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    """Adds `orchestrator/COMMIT`, which `illume --version` reads; outside a checkout the file of the sdist is kept."""

    def run(self) -> None:
        super().run()
        target = Path(self.build_lib) / "orchestrator" / "COMMIT"
        if self.editable_mode or target.exists():
            return
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match=no-tag"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if git.returncode == 0:
            target.write_text(git.stdout)


setup(cmdclass={"build_py": BuildWithCommit})
