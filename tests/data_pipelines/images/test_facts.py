"""Images are measured safely: damage has a name, limits come before pixels, copies have near hashes."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.image_rules import judge_image
from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import ImageFacts, measure_image
from data_pipelines.images.resizing import thumbnail

CONFIG = CurationConfig(anchors=((64, 64),), max_pixels=1_000_000)


def drawn(width: int = 160, height: int = 120) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 10, 90, 70), fill=(200, 30, 40))
    pen.rectangle((100, 60, 150, 110), fill=(20, 60, 200))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def facts(data: bytes) -> ImageFacts:
    found = measure_image(data, decode_limits(CONFIG))
    assert isinstance(found, ImageFacts), found
    return found


def reason(data: bytes, config: CurationConfig = CONFIG) -> str:
    found = measure_image(data, decode_limits(config))
    found = found if isinstance(found, Reject) else judge_image(found, config)  # type: ignore[assignment] # one or the other
    return found.reason if isinstance(found, Reject) else "fine"


def chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


GOOD = encoded(drawn())
JPEG = encoded(drawn(), "JPEG", quality=90)
AVIF = encoded(drawn(), "AVIF")
JPEG2000 = encoded(drawn(), "JPEG2000")
GIF = encoded(Image.new("P", (8, 8)), "GIF")
GIF_FRAME = b"\x2c" + bytes(4) + b"\1\0\1\0\0\2\2\x4c\1\0"
TEXT_BOMB = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)))


FORMS = {form: encoded(drawn(), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "zero_byte"),
        (b"<html>not found</html>", "not_an_image"),
        (b"PK\x03\x04 zip", "not_an_image"),
        (JPEG[:20], "truncated_image"),
        (JPEG[: len(JPEG) // 2], "truncated_image"),
        (GOOD[: len(GOOD) // 2], "truncated_image"),
        (encoded(drawn(), "WEBP")[:400], "truncated_image"),
        (GOOD.replace(b"IDAT", b"IDAT\xde\xad\xbe\xef", 1), "corrupt_image"),
        (png_header(30000, 30000), "decompression_bomb"),
        (encoded(drawn(1200, 1000), "BMP"), "too_large"),
        (
            GOOD[:33] + TEXT_BOMB + GOOD[33:],
            "decompression_bomb",
        ),
        (encoded(drawn().resize((8, 8))), "too_small"),
        (encoded(drawn().resize((800, 70))), "extreme_aspect"),
        (encoded(Image.new("RGB", (100, 100), "red")), "blank_image"),
        (encoded(Image.new("RGBA", (100, 100), (9, 9, 9, 0))), "blank_image"),
        (encoded(Image.effect_noise((160, 160), 60)), "noise_image"),
        (encoded(drawn().filter(ImageFilter.GaussianBlur(9))), "low_quality"),
        (AVIF[:-200] + bytes(50) + AVIF[-150:], "corrupt_image"),
        (AVIF[:40], "truncated_image"),
        (JPEG2000[:3000], "truncated_image"),
        (JPEG2000[JPEG2000.index(b"\xff\x4f\xff\x51") : 3000], "truncated_image"),
        (JPEG2000[:200] + bytes(50) + JPEG2000[250:], "corrupt_image"),
        (encoded(drawn(), "TIFF")[:3000], "truncated_image"),
        (GOOD[:33] + 200 * chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(900_000))) + GOOD[33:], "decompression_bomb"),
        (GOOD[:33] + 30_000 * chunk(b"teSt", b"") + GOOD[33:], "decompression_bomb"),
        (JPEG[:2] + 30_000 * b"\xff\xfe\0\2" + JPEG[2:], "decompression_bomb"),
        (JPEG[:2] + 5_000_000 * b"\xff" + JPEG[2:], "decompression_bomb"),
        (GIF[:-1] + 30_000 * GIF_FRAME + b";", "decompression_bomb"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "format_not_allowed"),
        (b"\xff\x0a jxl", "format_not_allowed"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "format_not_allowed"),
        (b"<svg/>", "format_not_allowed"),
        (encoded(Image.fromarray(np.asarray(drawn().convert("L")).astype(np.float32) / 255), "TIFF"), "fine"),
        (encoded(drawn(), "PPM"), "format_not_allowed"),
        (encoded(drawn(), "MPO", save_all=True, append_images=[drawn()]), "fine"),
        (encoded(drawn().convert("CMYK"), "JPEG"), "fine"),
        (encoded(drawn(), "JPEG", icc_profile=b"\xff garbage" * 200), "fine"),
        (JPEG + b"<script>PK\3\4", "fine"),
        (GOOD, "fine"),
        (JPEG, "fine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_trouble_has_its_name(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=5),
    st.floats(0, 1),
)
def test_no_damage_stops_the_ingest(form: str, edits: list[tuple[float, bytes]], kept: float) -> None:
    data = bytearray(FORMS[form])
    for share, new in edits:
        place = int(share * len(data))
        data[place : place + len(new)] = new
    for file in (bytes(data), bytes(data[: int(kept * len(data))])):
        assert isinstance(measure_image(file, decode_limits(CONFIG)), ImageFacts | Reject)
        thumbnail(file, 32, decode_limits(CONFIG))


def test_only_formats_on_the_list_are_decoded() -> None:
    only = CurationConfig(anchors=((64, 64),), formats=("PNG",))
    assert reason(JPEG, only) == "format_not_allowed"
    assert reason(GOOD, only) == "fine"


@pytest.mark.parametrize("code", range(1, 9))
def test_images_are_measured_upright(code: int) -> None:
    turned = ImageOps.exif_transpose(drawn())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that store an image for orientation `code`
    if code in undo:
        turned = turned.transpose(Image.Transpose(undo[code]))
    exif = Image.Exif()
    exif[0x0112] = code
    found = facts(encoded(turned, "JPEG", quality=95, exif=exif.tobytes()))
    assert (found.width, found.height) == (160, 120)
    assert (found.phash ^ facts(GOOD).phash).bit_count() <= 2


@pytest.mark.parametrize(
    "changed",
    [
        encoded(drawn(), "JPEG", quality=30),
        encoded(drawn().resize((144, 108))),
        encoded(ImageEnhance.Brightness(drawn()).enhance(1.05)),
        encoded(drawn().convert("CMYK"), "JPEG"),
        encoded(drawn().quantize(128)),
        encoded(drawn().crop((3, 2, 158, 118))),
    ],
)
def test_copies_have_near_hashes(changed: bytes) -> None:
    assert (facts(changed).phash ^ facts(GOOD).phash).bit_count() <= 10


@pytest.mark.parametrize("size", [(517, 400), (331, 243), (90, 65)])
def test_an_image_of_another_size_has_nearly_the_same_hash(size: tuple[int, int]) -> None:
    """The cells of a reduction that cover only the rest of a side count for no more than that."""
    scene = np.random.default_rng(7).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    large = Image.fromarray(scene).resize((640, 480), Image.Resampling.BICUBIC)
    small = large.resize(size, Image.Resampling.LANCZOS)
    assert (facts(encoded(large)).phash ^ facts(encoded(small)).phash).bit_count() <= 4


@pytest.mark.parametrize("size", [(128, 128), (161, 333), (400, 90)])
def test_the_mirrored_hash_is_the_hash_of_the_mirrored_image(size: tuple[int, int]) -> None:
    one, other = facts(encoded(drawn(*size))), facts(encoded(ImageOps.mirror(drawn(*size))))
    assert (one.mirrored_phash ^ other.phash).bit_count() <= 2  # the reduction's last column may cover fewer pixels
    assert (other.mirrored_phash ^ one.phash).bit_count() <= 2
    assert (one.phash ^ other.phash).bit_count() > 10


def test_equal_pixels_have_one_digest_whatever_the_file() -> None:
    again = encoded(drawn(), "PNG", compress_level=1)
    assert again != GOOD
    assert facts(again).pixel_digest == facts(GOOD).pixel_digest == facts(encoded(drawn(), "BMP")).pixel_digest
    assert facts(encoded(ImageOps.mirror(drawn()))).pixel_digest != facts(GOOD).pixel_digest


def test_jpegs_of_one_coded_image_have_one_digest_whatever_their_metadata() -> None:
    comment, application = b"\xff\xfe\0\x0bcopied by", b"\xff\xe3\0\x08anyone"
    digest = facts(JPEG).pixel_digest
    for metadata in (comment, application + comment):
        assert facts(JPEG[:2] + metadata + JPEG[2:]).pixel_digest == digest
    assert facts(JPEG + b"after the end").pixel_digest == digest
    for other in (encoded(drawn(), "JPEG", quality=60), encoded(drawn(), "JPEG", progressive=True)):
        assert facts(other).pixel_digest != digest
    exif = Image.Exif()
    exif[0x0112] = 3
    assert facts(encoded(drawn(), "JPEG", exif=exif.tobytes())).pixel_digest != digest


@pytest.mark.parametrize("size", [(391, 383), (800, 640), (780, 1040)])
def test_large_jpegs_are_measured_like_all_their_pixels(size: tuple[int, int]) -> None:
    large = drawn(160, 120).resize(size, Image.Resampling.BICUBIC)
    pixels, encode_jpeg = facts(encoded(large, "BMP")), facts(encoded(large, "JPEG", quality=95))
    assert (encode_jpeg.width, encode_jpeg.height) == size
    assert (encode_jpeg.phash ^ pixels.phash).bit_count() <= 2
    difference = np.frombuffer(encode_jpeg.miniature, np.uint8).astype(int) - np.frombuffer(pixels.miniature, np.uint8)
    assert np.abs(difference).max() <= 6
    for name in ("contrast", "sharpness"):
        assert encode_jpeg.scores[name] == pytest.approx(pixels.scores[name], rel=0.1)
    assert encode_jpeg.scores["neighbour_correlation"] > 0.5


@pytest.mark.parametrize("side", [300, 600, 1000, 2000])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_noise_is_noise_at_any_size(side: int, form: str) -> None:
    pixels = 128 + np.random.default_rng(side).normal(0, 50, (side // 2, side, 3))
    config = replace(CONFIG, max_pixels=4_000_000)
    assert reason(encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), form), config) == "noise_image"
    assert reason(encoded(drawn().resize((side, side // 2)), form), config) == "fine"


def test_sixteen_bits_and_transparency_are_read_as_they_look() -> None:
    deep = drawn().convert("L").convert("I").point(lambda value: value * 257)
    assert (facts(encoded(deep.convert("I;16"))).phash ^ facts(GOOD).phash).bit_count() <= 4
    layer = drawn().convert("RGBA")
    layer.putalpha(Image.new("L", layer.size, 255))
    assert facts(encoded(layer)).miniature == facts(GOOD).miniature


def test_the_published_example_images_are_fine(shared: Path) -> None:
    for path in sorted((shared / "data" / "illume_examples").rglob("*.png")):
        found = measure_image(path.read_bytes(), decode_limits(CONFIG))
        assert isinstance(found, ImageFacts)
        assert judge_image(found, CONFIG) is None
