"""Resolves the dependencies again and writes `constraints.txt` and `hashes.txt`: `make lock`.

    python .ci/lock.py [--python PATH ...] PIN ...

Each Python that is supported and found on the PATH resolves everything that can be installed: the package, its extras
and its test group. A PIN (`torch==2.13.0`) holds one package back. `constraints.txt` gets the exact version of each
package, with a marker where the Pythons differ; `hashes.txt` gets the SHA-256 of those files of the package itself
that are the same on every platform (pure wheels), for `pip install --require-hashes`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("python3.11", "python3.12", "python3.13")
EXTRAS = "deepspeed,kubernetes,notify,postgresql,ui"
PIP = "pip==26.3"
NOT_LOCKED = re.compile(r"(nvidia-|cuda-|triton$)")  # come with the GPU builds of torch, which pins them itself
CONSTRAINTS_HEAD = (
    "# Exact versions of everything that can be installed, for all supported Pythons. Made by `make lock`.\n"
)
HASHES_HEAD = "# Files of the package's own dependencies that every platform shares, by SHA-256. Made by `make lock`.\n"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """One package as one Python resolves it."""

    name: str
    version: str
    sha256: str  # "" unless its file is a wheel for every platform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated; default: all on the PATH")
    parser.add_argument("pins", nargs="*", metavar="PIN", help="for instance torch==2.13.0")
    arguments = parser.parse_args()
    pythons = arguments.python or [path for name in PYTHONS if (path := shutil.which(name))]
    everything: dict[str, dict[str, Resolved]] = {}
    own: set[tuple[str, str]] = set()
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            version, resolver = _resolver(python, Path(folder))
            print(f"Python {version}: resolving", flush=True)
            everything[version] = _resolve(resolver, [f"{ROOT}[{EXTRAS}]", "--group", "test", *arguments.pins])
            runtime = _resolve(resolver, [str(ROOT), "-c", _pins_file(Path(folder), everything[version])])
            own |= {(version, name) for name in runtime}
    (ROOT / "constraints.txt").write_text(CONSTRAINTS_HEAD + "".join(_lines(everything)))
    (ROOT / "hashes.txt").write_text(HASHES_HEAD + "".join(_lines(everything, own)))


def _resolver(python: str, folder: Path) -> tuple[str, Path]:
    """The `major.minor` of an interpreter, and a Python of that version whose pip is current."""
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    inside = folder / "venv" / "bin" / "python"
    subprocess.run([inside, "-m", "pip", "install", "--quiet", PIP], check=True)
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.check_output([inside, "-c", code], text=True).strip(), inside


def _resolve(python: Path, wanted: list[str]) -> dict[str, Resolved]:
    command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *wanted]
    report = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    found = [_resolved(item) for item in report["install"] if "dir_info" not in item["download_info"]]
    return {package.name: package for package in found if not NOT_LOCKED.match(package.name)}


def _resolved(item: dict) -> Resolved:
    name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
    is_everywhere = item["download_info"]["url"].endswith("-none-any.whl")
    sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"] if is_everywhere else ""
    return Resolved(name=name, version=item["metadata"]["version"].partition("+")[0], sha256=sha256)


def _pins_file(folder: Path, resolved: dict[str, Resolved]) -> str:
    path = folder / "pins.txt"
    path.write_text("".join(f"{package.name}=={package.version}\n" for package in resolved.values()))
    return str(path)


def _lines(everything: dict[str, dict[str, Resolved]], own: set[tuple[str, str]] | None = None) -> list[str]:
    """Lines of a requirements file. `own`: only these (Python, package), with hashes."""
    pythons_by_line: dict[str, list[str]] = defaultdict(list)
    for python, resolved in everything.items():
        for package in resolved.values():
            pin = f"{package.name}=={package.version}"
            if own is None:
                pythons_by_line[pin].append(python)
            elif (python, package.name) in own and package.sha256:
                pythons_by_line[f"{pin} --hash=sha256:{package.sha256}"].append(python)
    return [_with_marker(line, pythons, len(everything)) for line, pythons in sorted(pythons_by_line.items())]


def _with_marker(line: str, pythons: list[str], all_pythons: int) -> str:
    if len(pythons) == all_pythons:
        return f"{line}\n"
    marker = " or ".join(f'python_version == "{python}"' for python in pythons)
    pin, _, digest = line.partition(" ")
    return f"{pin} ; {marker} {digest}".rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
