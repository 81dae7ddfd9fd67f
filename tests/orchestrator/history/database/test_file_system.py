from pathlib import Path

import pytest

from orchestrator.errors import EXIT_UNUSABLE, UnfitDatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.database.file_system import check_local


@pytest.mark.parametrize(
    "kind",
    [
        *["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "wekafs", "panfs"],
        *["fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph-fuse", "fuse.juicefs", "fuse.glusterfs"],
    ],
)
def test_sqlite_refuses_network_file_systems(tmp_path: Path, kind: str) -> None:
    message = (
        rf"database {tmp_path}/index\.db: found a network file system \({kind}\), where SQLite loses data.* Expected a "
        r"local disk: `--database /local/disk/index\.db`, or ILLUME_HOME on one; for several machines PostgreSQL"
    )
    with pytest.raises(UnfitDatabaseError, match=message) as caught:
        Database(str(tmp_path / "index.db"), file_system_of=lambda _path: kind)
    assert caught.value.exit_code == EXIT_UNUSABLE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "9p", "fuse.fuse-overlayfs", ""])
def test_other_file_systems_are_taken(tmp_path: Path, kind: str) -> None:
    check_local(tmp_path / "index.db", "database", "", lambda _path: kind)
    Database(str(tmp_path / "index.db"), file_system_of=lambda _path: kind).close()
