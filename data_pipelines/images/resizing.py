"""Resizes images: thumbnails, and the reduced copies that datasets store instead of large originals.

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
from data_pipelines.images.decoding import DecodedImage, Size, decode_within, orientation, pixel_array, upright
from data_pipelines.images.jpegs import encode_jpeg
from data_pipelines.images.limits import DecodeLimits, StoredSize

FOLDER = "smaller"
THUMBNAIL_QUALITY = 80
_INDEX_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),  # of the original file
        ("offset", pa.int64()),  # of the resized image's bytes in the tar
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ResizedImage:
    jpeg: bytes
    width: int  # pixels
    height: int


def thumbnail(data: bytes, side: int, limits: DecodeLimits) -> bytes | None:
    """An upright JPEG whose longer side is at most `side` pixels, or None if the image cannot be read."""

    def shrink(decoded: DecodedImage) -> ResizedImage:
        small = decoded.upright()
        small.thumbnail((side, side), Image.Resampling.BOX)
        return _encode(small, THUMBNAIL_QUALITY)

    resized = decode_within(data, limits, shrink, needed_share=lambda size: side / max(size))
    return None if isinstance(resized, Reject) else resized.jpeg


def storage_share(size: Size, stored: StoredSize) -> float:
    """The share of each side that an image is stored at; more than 1 where the original is stored."""
    return stored.max_side / max(size)


def resize_for_storage(decoded: DecodedImage, stored: StoredSize) -> ResizedImage | None:
    """The upright image at the size it is stored at, or None if the original is stored."""
    share = storage_share(decoded.size, stored)
    if share >= 1:
        return None
    width, height = (max(1, round(side * share)) for side in decoded.size)
    small = _resize(decoded.unrotated(), (width, height))
    return _encode(upright(small, orientation(decoded.header)), stored.quality)


def _resize(pixels: Image.Image, size: Size) -> Image.Image:
    """Bicubic with antialiasing like Pillow's, to within 2 of 255, in a sixth of its time."""
    import torch  # takes seconds to import, and few datasets resize what they store
    from torch.nn.functional import interpolate

    pixels_NCYX = torch.from_numpy(pixel_array(pixels))[None].permute(0, 3, 1, 2)  # a view: channels last in memory
    small_NCYX = interpolate(pixels_NCYX, size=size[::-1], mode="bicubic", antialias=True)
    small_YXC = small_NCYX[0].permute(1, 2, 0).contiguous().numpy()
    mode = "L" if pixels.mode == "L" else "RGBX"
    return Image.frombuffer(mode, size, small_YXC, "raw", mode, 0, 1)


def _encode(small: Image.Image, quality: int) -> ResizedImage:
    return ResizedImage(jpeg=encode_jpeg(pixel_array(small), quality), width=small.width, height=small.height)


class ResizedImageWriter:
    """Writes resized images to `smaller/NAME.tar` below a folder, each once, and an index of them."""

    def __init__(self, folder: Path, name: str) -> None:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self._index_path = folder / FOLDER / f"{name}.parquet"
        self._file = (folder / FOLDER / f"{name}.tar").open("wb")
        self._tar = TarWriter(self._file)
        self._index: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "ResizedImageWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._file.close()
        pq.write_table(pa.Table.from_pylist([*self._index.values()], schema=_INDEX_SCHEMA), self._index_path)

    def add(self, digest: str, image: ResizedImage) -> None:
        """`digest`: SHA-256 of the original file."""
        if digest in self._index:
            return
        offset = self._tar.add(f"{digest}.jpg", image.jpeg).data
        span = {"sha256": digest, "offset": offset, "bytes": len(image.jpeg)}
        self._index[digest] = {**span, "width": image.width, "height": image.height}


class ResizedImages:
    """Reads what `ResizedImageWriter` wrote."""

    def __init__(self, folder: Path, name: str) -> None:
        rows = pq.read_table(folder / FOLDER / f"{name}.parquet").to_pylist()
        self._index: dict[str, Mapping[str, Any]] = {row["sha256"]: row for row in rows}
        self._file = (folder / FOLDER / f"{name}.tar").open("rb")

    def __enter__(self) -> "ResizedImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, digest: str) -> ResizedImage | None:
        """The resized copy of the file with this SHA-256, None if the original is stored."""
        row = self._index.get(digest)
        if row is None:
            return None
        self._file.seek(row["offset"])
        return ResizedImage(jpeg=self._file.read(row["bytes"]), width=row["width"], height=row["height"])
