"""Pictures inside tars, by the names that annotations use."""

import io
import tarfile
from pathlib import Path

from data_pipelines.ingest.image_sources import member_names, open_images

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
