"""The kind of file system that a file is on, and the refusal of those on which SQLite damages its files.

SQLite needs locks and shared memory that all its users see; over a network they are those of one machine at best.
"""

import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import UnfitDatabaseError

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|lustre|gpfs|mmfs|beegfs\w*|ceph|afs|panfs|pvfs2|orangefs|wekafs|ocfs2|gfs2|"
    r"fuse\.(.*sshfs|.*nfs.*|s3fs|goofys|mount-s3|mountpoint-s3|gcsfuse|blobfuse\d?|rclone|juicefs|glusterfs|ceph.*|"
    r"cephfs|lustre|beegfs|moosefs|mfs|seaweedfs|davfs\d?|smbnetfs|curlftpfs|objectivefs)|glusterfs|davfs\d?"
)

FileSystemOf = Callable[[Path], str]


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that `path` is or would be on, e.g. "ext4" or "nfs4"; "" if that is unknown."""
    real = str(next(found for found in (path.absolute(), *path.absolute().parents) if found.exists()).resolve())
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        where = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        is_below = real == where or real.startswith(where.rstrip("/") + "/")
        if is_below and len(where) >= len(best):  # of two mounts at one place, the later one is seen
            best, kind = where, after.split(" ")[0]
    return kind


def check_local(path: Path, what: str, instead: str, kind_of: FileSystemOf = file_system_of) -> None:
    """Make sure that a file of SQLite is not on a network file system. `instead`: what to use there.

    Raises: UnfitDatabaseError: it is.
    """
    kind = kind_of(path)
    if _NETWORK.fullmatch(kind):
        raise UnfitDatabaseError(
            f"{what} {path}: found a network file system ({kind}), where SQLite loses data as its locks work on one "
            f"machine only. Expected a local disk: {instead}"
        )
