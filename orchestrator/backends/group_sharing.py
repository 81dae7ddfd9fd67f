"""Permissions in a store that a group of users shares: what is made in a shared folder is shared, whatever the umask.

A folder is shared if its group may write to it and it is not one for everybody with the sticky bit, as /tmp is:
`mkdir store && chgrp team store && chmod 2775 store` is all that a team has to do.
"""

import os
import stat
from pathlib import Path

SHARED_FOLDER = stat.S_IRWXG | stat.S_ISGID


def share_folder(folder: Path | str) -> None:
    """Give a folder that this process has just made the rights of the group on the folder that it is in."""
    parent = os.stat(os.path.dirname(folder))
    if not _is_shared(parent):
        return
    own = os.stat(folder)
    is_hidden = not own.st_mode & stat.S_IRWXG  # by the umask; a folder that passes its group on is meant for it
    if is_hidden and not parent.st_mode & stat.S_ISGID:
        return
    wanted = stat.S_IMODE(own.st_mode) | (parent.st_mode & SHARED_FOLDER)
    if wanted != stat.S_IMODE(own.st_mode):
        os.chmod(folder, wanted)


def share_file(descriptor: int, folder: Path | str) -> None:
    """Let the group of a shared folder read a file that is about to appear in it."""
    found = os.stat(folder)
    if _is_shared(found):
        own = os.fstat(descriptor)
        os.fchmod(descriptor, stat.S_IMODE(own.st_mode) | (found.st_mode & stat.S_IRGRP))


def share_tree(top: Path) -> None:
    """Share the folders below a folder that other code has filled."""
    for here, folders, _ in os.walk(top):
        for name in folders:
            folder = Path(here) / name
            if folder.stat().st_uid == os.geteuid():
                share_folder(folder)


def _is_shared(folder: os.stat_result) -> bool:
    return bool(folder.st_mode & stat.S_IWGRP) and not folder.st_mode & stat.S_ISVTX
