"""The refusal of file systems on which SQLite damages its files.

SQLite needs locks and shared memory that all its users see; over a network they are those of one machine at best.
"""

from collections.abc import Callable
from pathlib import Path

from orchestrator.backends.mounts import file_system_of, is_network
from orchestrator.errors import UnfitDatabaseError

FileSystemOf = Callable[[Path], str]


def check_local(path: Path, what: str, instead: str, kind_of: FileSystemOf = file_system_of) -> None:
    """Make sure that a file of SQLite is not on a network file system. `instead`: what to use there.

    Raises: UnfitDatabaseError: it is.
    """
    kind = kind_of(path)
    if is_network(kind):
        raise UnfitDatabaseError(
            f"{what} {path}: found a network file system ({kind}), where SQLite loses data as its locks work on one "
            f"machine only. Expected a local disk: {instead}"
        )
