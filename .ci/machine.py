"""What `make` asks this machine before it installs anything; says what is missing and what to do, and exits with 2.

    python .ci/machine.py check FOLDER      # Python, venv and disk space for an environment in FOLDER
    python .ci/machine.py torch             # `cpu` where there is no NVIDIA GPU, else `default`

Runs on Python 3.6 and newer, so that one that is too old can say so.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (
    (3, 11),
    (3, 13),
)  # `requires-python` of pyproject.toml; tests/architecture/test_package.py compares them
NEEDED_GIB = {"cpu": 5, "default": 14}  # the environment and pip's temporary files, with room to spare


def main(arguments):
    if arguments == ["torch"]:
        print(torch_build())
        return 0
    if len(arguments) == 2 and arguments[0] == "check":
        problems = list(find_problems(arguments[1]))
        for problem in problems:
            sys.stderr.write(problem + "\n")
        return 2 if problems else 0
    sys.stderr.write(__doc__)
    return 2


def find_problems(folder, python=sys.version_info, build=None):
    """Yields a sentence for each thing that keeps the environment from being made in `folder`."""
    found = _dotted(python[:2])
    if not OLDEST <= tuple(python[:2]) <= NEWEST:
        yield (
            f"Python {_dotted(OLDEST)} to {_dotted(NEWEST)} is needed; found {found} ({sys.executable}). "
            "Install one of them and name it: make PYTHON=/path/to/python3.11"
        )
        return
    if importlib.util.find_spec("ensurepip") is None:  # Debian leaves it out of its Python
        yield f"this Python cannot make environments; on Debian: apt install python{found}-venv"
    parent = existing_parent(folder)
    if not os.access(parent, os.W_OK):
        yield f"{parent} cannot be written to; work in a folder of yours, or choose another: make VENV=/path/to/venv"
    needed = NEEDED_GIB[build or torch_build()]
    free_gib = shutil.disk_usage(parent).free / 2**30
    if free_gib < needed:
        yield (
            f"the environment needs {needed} GiB, {parent} has {free_gib:.1f} GiB free; make room, or choose another "
            "disk: make VENV=/path/to/venv"
        )


def _dotted(version):
    return ".".join(str(part) for part in version)


def existing_parent(folder):
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def torch_build():
    """`default` if a driver answers for an NVIDIA GPU, else `cpu`."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "default" if answer.returncode == 0 and b"GPU" in answer.stdout else "cpu"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
