"""Finds mistakes in a folder that the code of a stage has written, before its files are committed."""

import os
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.attempt_folder import files_below

OPEN_FILES = Path("/proc/self/fd")  # Linux only; elsewhere files that were left open are not found


def output_problem(folder: Path) -> str:
    """What is wrong with the files below `folder`, as a sentence with what to do; "" if nothing is.

    Finds files that this process still has open for writing, whose last bytes may not be in the file yet, and what
    cannot be committed: links, special files, names that not every store accepts.
    """
    still_open = open_for_writing(folder)
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


def open_for_writing(folder: Path) -> list[str]:
    """Relative paths of the files below `folder` that this process has open for writing."""
    if not OPEN_FILES.is_dir():
        return []
    root = folder.resolve()
    found = set()
    for descriptor in os.listdir(OPEN_FILES):
        try:
            path = Path(os.readlink(OPEN_FILES / descriptor))
            is_below = path.is_relative_to(root)
            if is_below and _is_writable(descriptor):
                found.add(path.relative_to(root).as_posix())
        except OSError:  # closed meanwhile
            continue
    return sorted(found)


def _is_writable(descriptor: str) -> bool:
    """From the line "flags: 0100001" of the descriptor's status, which is octal."""
    lines = (OPEN_FILES.parent / "fdinfo" / descriptor).read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY
