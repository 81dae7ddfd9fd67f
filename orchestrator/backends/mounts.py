"""The kind of file system that a path is on, from the mount table of Linux.

Elsewhere the kind is unknown: such a path is neither called a network file system nor a disk of this machine.
"""

import re
from functools import lru_cache
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|lustre|gpfs|mmfs|beegfs\w*|ceph|afs|panfs|pvfs2|orangefs|wekafs|ocfs2|gfs2|"
    r"fuse\.(.*sshfs|.*nfs.*|s3fs|goofys|mount-s3|mountpoint-s3|gcsfuse|blobfuse\d?|rclone|juicefs|glusterfs|ceph.*|"
    r"cephfs|lustre|beegfs|moosefs|mfs|seaweedfs|davfs\d?|smbnetfs|curlftpfs|objectivefs)|glusterfs|davfs\d?"
)
_LOCAL = frozenset({"ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay", "zfs"})


def file_system_of(path: Path, mounts: Path | None = None) -> str:
    """The type of the file system that `path` is or would be on, e.g. "ext4" or "nfs4"; "" if that is unknown."""
    real = str(next(found for found in (path.absolute(), *path.absolute().parents) if found.exists()).resolve())
    try:
        lines = (mounts or MOUNTS).read_text(errors="surrogateescape").splitlines()
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


def is_network(kind: str) -> bool:
    """Whether a type of file system is known to be one that several machines share."""
    return _NETWORK.fullmatch(kind) is not None


@lru_cache(maxsize=16)
def is_local_disk(folder: Path) -> bool:
    """Whether a folder is known to be on a disk of this machine. Asked once per folder and process."""
    return file_system_of(folder) in _LOCAL
