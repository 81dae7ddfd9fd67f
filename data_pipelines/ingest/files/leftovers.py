"""What systems and editors leave in folders of data, and listing a folder without it.

Hidden files and folders, `.ipynb_checkpoints`, `.DS_Store`, AppleDouble files, editors' backups and locks are read only
where a path names them.
"""

import os
from pathlib import Path, PurePosixPath

from data_pipelines.ingest.units import IMAGE_ENDINGS

_NAMES = frozenset(("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db",
                    "desktop.ini", "__pycache__", "ehthumbs.db", "@Recycle", "@tmp", "RECYCLER", "_temporary",
                    "_delta_log"))  # fmt: skip
_ENDINGS = (
    "~",
    ".swp",
    ".swo",
    ".tmp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".aria2",
    ".bak",
    ".orig",
    ".lock",
)


def is_leftover(name: str) -> bool:
    """Whether a path below a folder, or the name of a tar's member, is none of the data."""
    return any(_is_leftover_part(part) for part in PurePosixPath(name).parts)


def _is_leftover_part(part: str) -> bool:
    if part in (".", "..", "/"):
        return False
    return part.startswith((".", "~$", "#")) or part in _NAMES or part.endswith(_ENDINGS)


def valid_name(name: str) -> str:
    """The name of a file as valid Unicode, which names on a disk need not be; different names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()


def files_below(folder: Path, *, leftovers: bool = False) -> list[str]:
    """The paths of all files below a folder, sorted; `leftovers` too, or without them. Links to folders are followed,
    each folder once. What is called an image is listed even if it is a link to nothing or a pipe, and then rejected."""
    found: list[str] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if leftovers or not _is_leftover_part(name))
        for name in list(folders):
            path = os.path.join(parent, name)
            if os.path.islink(path):
                real = os.path.realpath(path)
                if real in seen:
                    folders.remove(name)
                seen.add(real)
        below = os.path.relpath(parent, folder)
        found += [
            name if below == "." else f"{below}/{name}"
            for name in files
            if (leftovers or not _is_leftover_part(name)) and _is_listed(os.path.join(parent, name))
        ]
    return sorted(found)


def _is_listed(path: str) -> bool:
    return os.path.isfile(path) or path.lower().endswith(tuple(IMAGE_ENDINGS))
