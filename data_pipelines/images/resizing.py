"""Makes pictures smaller: thumbnails, and what is stored of a large picture instead of the bytes it came as.

Legend: N batch of one; C channels; Y, X pixel rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.datasets.records import Reject
from data_pipelines.images.decoding import Picture, Size, look_at, orientation, pixels_of, upright
from data_pipelines.images.jpegs import coded
from data_pipelines.images.limits import DecodeLimits, StoredSize

FOLDER = "smaller"
THUMBNAIL_QUALITY = 80
_INDEX_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),  # of the file that it was made of
        ("offset", pa.int64()),  # of its bytes in the tar
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Smaller:
    jpeg: bytes
    width: int  # pixels
    height: int


def thumbnail(data: bytes, side: int, limits: DecodeLimits) -> bytes | None:
    """A small upright JPEG, or None if the picture cannot be read."""

    def shrink(picture: Picture) -> Smaller:
        small = picture.upright()
        small.thumbnail((side, side), Image.Resampling.BOX)
        return _coded(small, THUMBNAIL_QUALITY)

    found = look_at(data, limits, shrink, enough=lambda size: side / max(size))
    return None if isinstance(found, Reject) else found.jpeg


def needed_share(size: Size, stored: StoredSize) -> float:
    """How much of each side is needed to store a picture smaller; more than 1 where it stays as it came."""
    return stored.max_side / max(size)


def stored_smaller(picture: Picture, stored: StoredSize) -> Smaller | None:
    """What is stored instead of a picture, upright; None: the bytes it came as."""
    share = needed_share(picture.size, stored)
    if share >= 1:
        return None
    width, height = (max(1, round(side * share)) for side in picture.size)
    small = _resized(picture.plain(), (width, height))
    return _coded(upright(small, orientation(picture.header)), stored.quality)


def _resized(pixels: Image.Image, size: Size) -> Image.Image:
    """Bicubic with antialiasing like Pillow's, to within 2 of 255, in a sixth of its time."""
    import torch  # takes seconds, and few datasets are stored smaller
    from torch.nn.functional import interpolate

    pixels_NCYX = torch.from_numpy(pixels_of(pixels))[None].permute(0, 3, 1, 2)  # whose channels stay together
    small_NCYX = interpolate(pixels_NCYX, size=size[::-1], mode="bicubic", antialias=True)
    small_YXC = small_NCYX[0].permute(1, 2, 0).contiguous().numpy()
    mode = "L" if pixels.mode == "L" else "RGBX"
    return Image.frombuffer(mode, size, small_YXC, "raw", mode, 0, 1)


def _coded(small: Image.Image, quality: int) -> Smaller:
    return Smaller(jpeg=coded(pixels_of(small), quality), width=small.width, height=small.height)


class SmallerWriter:
    """Writes `smaller/NAME.tar` and its index below a folder; each picture once."""

    def __init__(self, folder: Path, name: str) -> None:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self._index_path = folder / FOLDER / f"{name}.parquet"
        self._file = (folder / FOLDER / f"{name}.tar").open("wb")
        self._tar = TarWriter(self._file)
        self._index: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "SmallerWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._file.close()
        pq.write_table(pa.Table.from_pylist([*self._index.values()], schema=_INDEX_SCHEMA), self._index_path)

    def add(self, digest: str, small: Smaller) -> None:
        """`digest`: SHA-256 of the file that it was made of."""
        if digest in self._index:
            return
        offset = self._tar.add(f"{digest}.jpg", small.jpeg).data
        place = {"sha256": digest, "offset": offset, "bytes": len(small.jpeg)}
        self._index[digest] = {**place, "width": small.width, "height": small.height}


class SmallerImages:
    """Reads what `SmallerWriter` wrote."""

    def __init__(self, folder: Path, name: str) -> None:
        rows = pq.read_table(folder / FOLDER / f"{name}.parquet").to_pylist()
        self._index: dict[str, Mapping[str, Any]] = {row["sha256"]: row for row in rows}
        self._file = (folder / FOLDER / f"{name}.tar").open("rb")

    def __enter__(self) -> "SmallerImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, digest: str) -> Smaller | None:
        """None: the picture is stored as it came."""
        place = self._index.get(digest)
        if place is None:
            return None
        self._file.seek(place["offset"])
        return Smaller(jpeg=self._file.read(place["bytes"]), width=place["width"], height=place["height"])
