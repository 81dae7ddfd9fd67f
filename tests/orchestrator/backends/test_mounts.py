from pathlib import Path

import pytest

from orchestrator.backends import mounts
from orchestrator.backends.mounts import file_system_of, is_local_disk, is_network

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 22 0:41 / /homes rw - xfs /dev/sdb rw
32 30 8:3 / {local} rw - ext4 /dev/sdc rw
33 22 0:43 / /scratch\\040of\\040all rw - lustre mds@tcp:/scratch rw
34 22 0:44 / /twice rw - ext4 /dev/sdd rw
35 34 0:45 / /twice rw - fuse.sshfs host:/x rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/homes/x", "ext4"), ("/", "ext4"), ("/etc/absent/deeper", "ext4"), ("{local}/x/index.db", "ext4")],
)
def test_the_nearest_mount_above_a_path_decides(tmp_path: Path, path: str, expected: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS.format(local=tmp_path / "local"))
    (tmp_path / "local").mkdir()
    assert file_system_of(Path(path.format(local=tmp_path / "local")), tmp_path / "mounts") == expected


def test_mounts_with_blanks_links_and_several_at_one_place(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    blank = str(tmp_path / "a b").replace(" ", "\\040")
    (tmp_path / "mounts").write_text(
        f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {blank} rw - ext4 x rw\n3 2 0:3 / {blank} rw - fuse.sshfs x rw\n"
    )
    assert file_system_of(tmp_path / "link" / "index.db", tmp_path / "mounts") == "fuse.sshfs"
    assert file_system_of(tmp_path / "other", tmp_path / "mounts") == "ext4"
    assert file_system_of(tmp_path, tmp_path / "absent") == ""


@pytest.mark.parametrize(("kind", "expected"), [("ext4", True), ("xfs", True), ("nfs4", False), ("9p", False)])
def test_only_known_kinds_are_disks_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: bool
) -> None:
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - {kind} x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    assert is_local_disk(tmp_path / "store") is expected


def test_an_unknown_file_system_is_neither_local_nor_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "absent")
    assert not is_local_disk(tmp_path)
    assert not is_network(file_system_of(tmp_path))
