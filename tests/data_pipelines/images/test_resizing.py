"""Thumbnails and what is stored of large images are small, upright, and look like what they were made of."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.images.decoding import DecodedImage, decode_within
from data_pipelines.images.limits import DecodeLimits, StoredSize
from data_pipelines.images.resizing import (
    ResizedImage,
    ResizedImages,
    ResizedImageWriter,
    resize_for_storage,
    thumbnail,
)

LIMITS: DecodeLimits = decode_limits(CurationConfig(anchors=((64, 64),)))
HALF = StoredSize(max_side=150, quality=95)


def encode_jpeg(mode: str = "RGB", form: str = "PNG", **options: object) -> bytes:
    soft = Image.fromarray(np.random.default_rng(3).integers(0, 255, (7, 9, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    soft.resize((301, 207), Image.Resampling.BICUBIC).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def stored(data: bytes, size: StoredSize) -> ResizedImage | None:
    found: list[ResizedImage | None] = []

    def look(picture: DecodedImage) -> int:
        found.append(resize_for_storage(picture, size))
        return 1

    assert decode_within(data, LIMITS, look) == 1
    return found[0]


def test_thumbnails_are_small_upright_jpegs_and_none_for_rubbish() -> None:
    small = thumbnail(encode_jpeg(), 48, LIMITS)
    assert small is not None
    assert Image.open(io.BytesIO(small)).size == (48, 33)
    assert thumbnail(b"nothing", 48, LIMITS) is None
    assert thumbnail(encode_jpeg(form="JPEG")[:200], 48, LIMITS) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_a_stored_image_is_as_near_to_the_original_as_that_of_pillow(mode: str) -> None:
    data = encode_jpeg(mode, "TIFF" if mode == "CMYK" else "PNG")
    small = stored(data, HALF)
    assert small is not None
    assert (small.width, small.height) == (150, 103)
    with Image.open(io.BytesIO(data)) as whole:
        uncoded = whole.convert("RGB").resize((150, 103), Image.Resampling.BICUBIC)
    by_pillow = io.BytesIO()
    uncoded.save(by_pillow, "JPEG", quality=HALF.quality)
    lost, lost_by_pillow = (
        np.abs(np.asarray(Image.open(file).convert("RGB")).astype(int) - np.asarray(uncoded)).mean()
        for file in (io.BytesIO(small.jpeg), by_pillow)
    )
    assert lost < 1.05 * lost_by_pillow + 0.2  # of 255


def test_a_stored_image_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    small = stored(encode_jpeg(form="JPEG", quality=95, exif=exif.tobytes()), HALF)
    assert small is not None
    assert (small.width, small.height) == Image.open(io.BytesIO(small.jpeg)).size == (103, 150)


def test_a_small_image_is_stored_as_its_original_bytes() -> None:
    assert stored(encode_jpeg(), StoredSize(max_side=301, quality=95)) is None


def test_a_resized_image_is_read_by_the_digest_of_its_original(tmp_path: Path) -> None:
    one, two = (ResizedImage(jpeg=bytes([number]) * 700, width=number, height=9) for number in (1, 2))
    with ResizedImageWriter(tmp_path, "part") as writer:
        for digest, small in (("aa", one), ("bb", two), ("aa", one)):
            writer.add(digest, small)
    with ResizedImages(tmp_path, "part") as images:
        assert (images.find("bb"), images.find("aa"), images.find("cc")) == (two, one, None)
