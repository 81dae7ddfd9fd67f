"""Finds mistakes in a folder that the code of a stage has written, before its files are committed."""

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.attempt_folder import files_below

OPEN_FILES = Path("/proc/self/fd")  # Linux only; elsewhere files that were left open are not found


def output_problem(folder: Path, writing: Sequence[str] | None = None) -> str:
    """What is wrong with the files below `folder`, as a sentence with what to do; "" if nothing is.

    Finds files that this process still has open for writing, whose last bytes may not be in the file yet, and what
    cannot be committed: links, special files, names that not every store accepts. `writing`: from `files_in_writing`,
    for callers that ask about many folders.
    """
    still_open = open_for_writing(folder, writing)
    if still_open:
        return (
            f"{still_open[0]} is still open for writing, so that its last bytes may be missing; close it before "
            "returning, for example with `with open(...)`"
        )
    try:
        files_below(folder)
    except StoreError as error:
        return f"the output cannot be committed: {error}"
    return ""


def open_for_writing(folder: Path, writing: Sequence[str] | None = None) -> list[str]:
    """Relative paths of the files below `folder` that this process has open for writing."""
    paths = files_in_writing(folder) if writing is None else writing
    if not paths:
        return []
    root = f"{os.path.realpath(folder)}/"
    return sorted({path.removeprefix(root) for path in paths if path.startswith(root)})


def files_in_writing(below: Path = Path("/")) -> list[str]:
    """The paths of all files below a folder that this process has open for writing."""
    if not OPEN_FILES.is_dir():
        return []
    top, found = f"{os.path.realpath(below).rstrip('/')}/", []
    for descriptor in os.listdir(OPEN_FILES):
        try:
            path = os.readlink(f"{OPEN_FILES}/{descriptor}")
            if path.startswith(top) and not path.startswith("/dev/") and _is_writable(descriptor):
                found.append(path)
        except OSError:  # closed meanwhile
            continue
    return found


def _is_writable(descriptor: str) -> bool:
    """From the line "flags: 0100001" of the descriptor's status, which is octal."""
    lines = (OPEN_FILES.parent / "fdinfo" / descriptor).read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY
