"""Image sources read images from folders and tars by name, and refuse names that lead out of them."""

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.files.image_sources import FolderSource, check_name, member_names, open_images

LIMITS = {"max_bytes": 1000, "max_unpacked_bytes": 10_000}


def test_a_tar_of_a_folder_is_read_by_plain_names(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("./cats/one.png")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
    images = open_images([path], **LIMITS)
    assert images.read("cats/one.png") == b"data"
    assert images.read("./cats/one.png") == b"data"
    assert member_names(path) == {"cats/one.png"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/passwd", "path_traversal"),
        ("sub/../../records.jsonl", "path_traversal"),
        ("%2e%2e/%2e%2e/etc/passwd", "path_traversal"),
        ("..\\..\\win.ini", "path_traversal"),
        ("/etc/passwd", "absolute_path"),
        ("C:\\win.ini", "absolute_path"),
        ("//host/share/a.jpg", "absolute_path"),
        ("http://example.com/a.jpg", "remote_url"),
        ("file:///etc/hostname", "remote_url"),
        ("s3://bucket/a.jpg", "remote_url"),
        ("data:image/png;base64,xx", "remote_url"),
        ("", "unsafe_path"),
        (".", "unsafe_path"),
        ("a\x00.jpg", "unsafe_path"),
        ("a" * 5000, "unsafe_path"),
    ],
)
def test_names_that_lead_elsewhere_are_refused_unopened(name: str, reason: str) -> None:
    found = check_name(name)
    assert found is not None
    assert found.reason == reason


def test_links_devices_and_large_files_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to("real.png")
    (root / "real.png").write_bytes(b"real")
    (root / "loop.png").symlink_to("loop.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "folder.png").mkdir()
    (root / "large.png").write_bytes(bytes(2000))
    os.mkfifo(root / "pipe.png")
    images = FolderSource(root, max_bytes=1000)
    assert images.read("inside.png") == b"real"
    found = {path.name: images.read(path.name) for path in root.iterdir()}
    assert {name: value.reason for name, value in found.items() if isinstance(value, Reject)} == {
        "out.png": "path_traversal", "loop.png": "unsafe_path", "zero.png": "path_traversal",
        "folder.png": "unsafe_path", "large.png": "too_large", "pipe.png": "unsafe_path",
    }  # fmt: skip
    assert images.read("absent.png") == Reject(reason="missing_file", detail="no file 'absent.png'")


def test_the_first_source_that_has_a_name_wins(tmp_path: Path) -> None:
    for folder, names in (("first", "a"), ("second", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(folder.encode())
    images = open_images([tmp_path / "first", tmp_path / "second"], **LIMITS)
    assert (images.read("a"), images.read("b")) == (b"first", b"second")
    found = images.read("c")
    assert isinstance(found, Reject)
    assert found.reason == "missing_file"


def test_a_disk_that_fails_is_an_error_and_no_property_of_the_file() -> None:
    memory = Path("/proc/self/mem")  # a regular file whose first byte cannot be read
    if not memory.exists():
        pytest.skip("needs /proc of Linux")
    with pytest.raises(OSError, match="Input/output error") as failed:
        FolderSource(memory.parent, max_bytes=100).read("mem")
    assert failed.value.errno == errno.EIO


@pytest.mark.parametrize("comes_back", [False, True])
def test_files_of_a_folder_that_went_away_are_not_missing(tmp_path: Path, comes_back: bool) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    source = FolderSource(root, max_bytes=100)
    missing = source.read("a.png")
    assert isinstance(missing, Reject)
    assert missing.reason == "missing_file"
    root.rename(tmp_path / "away")
    if comes_back:  # as the empty folder below a mount point
        root.mkdir()
    with pytest.raises(OSError, match="the folder of images is gone or is another one now"):
        source.read("a.png")
