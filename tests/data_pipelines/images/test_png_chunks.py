"""What stands beside the pixels of a PNG does not decide over them."""

import io
import zlib

import pytest
from PIL import Image

from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import measure_image
from data_pipelines.images.limits import OTHER_FORMATS, DecodeLimits
from data_pipelines.images.png_chunks import MAX_TEXT_BYTES, without_side_chunks

PIXELS = Image.effect_noise((60, 40), 40)


def encoded(form: str = "PNG", mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    PIXELS.convert(mode).save(buffer, form)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(name + content) ^ (not right)
    return len(content).to_bytes(4, "big") + name + content + checksum.to_bytes(4, "big")


def with_chunk(added: bytes, *, before_end: bool = False) -> bytes:
    data = encoded()
    place = len(data) - 12 if before_end else 33
    return data[:place] + added + data[place:]


@pytest.mark.parametrize("before_end", [False, True])
@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", b"Workflow\0\0" + zlib.compress(b"a" * (3 << 20))),
        chunk(b"zTXt", b"Workflow\0\0" + zlib.compress(b"a" * (MAX_TEXT_BYTES + 1))),
        chunk(b"iTXt", b"Workflow\0\1\0\0\0" + zlib.compress(bytes(20 << 20))),
        chunk(b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1", right=False),
        chunk(b"pHYs", b"\0"),
        chunk(b"tRNS", b"\0\1", right=False),
        chunk(b"gAMA", b"\0"),
        chunk(b"iCCP", b"profile\0\7" + b"x" * 9),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(20 << 20))),
        chunk(b"tIME", b"", right=False),
        chunk(b"sRGB", b""),
        chunk(b"cHRM", b"\0"),
        chunk(b"prVt", b"anything", right=False),
    ],
)
def test_sound_pixels_are_read_whatever_stands_beside_them(added: bytes, before_end: bool) -> None:
    sound, found = (
        measure_image(encoded(), DecodeLimits()),
        measure_image(with_chunk(added, before_end=before_end), DecodeLimits()),
    )
    assert not isinstance(sound, Reject)
    assert not isinstance(found, Reject), found
    assert found.pixel_digest == sound.pixel_digest


def test_a_reservation_in_a_sound_text_counts_beside_a_damaged_chunk() -> None:
    added = chunk(b"tEXt", b"Comment\0noai") + chunk(b"pHYs", b"\0", right=False)
    found = measure_image(with_chunk(added), DecodeLimits())
    assert not isinstance(found, Reject)
    assert found.opt_out


def test_damaged_pixels_are_still_damaged() -> None:
    data = with_chunk(chunk(b"pHYs", b"\0", right=False))
    cut = measure_image(data[: len(data) // 2], DecodeLimits())
    assert isinstance(cut, Reject)
    assert cut.reason == "truncated_image"
    assert without_side_chunks(b"GIF89a") == b"GIF89a"


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("TGA", "RGB"), ("DDS", "RGBA"), ("PPM", "RGB"), ("PCX", "RGB"), ("ICO", "RGBA"), ("ICNS", "RGBA"),
        ("QOI", "RGBA"), ("SGI", "RGB"),
    ],
)  # fmt: skip
def test_formats_that_are_not_allowed_are_told_from_no_images_and_can_be_allowed(form: str, mode: str) -> None:
    try:
        data = encoded(form, mode)
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow does not write {form}")
    refused = measure_image(data, DecodeLimits())
    assert isinstance(refused, Reject)
    assert refused.reason == "format_not_allowed"
    allowed = measure_image(data, DecodeLimits(formats=("PNG", *OTHER_FORMATS)))
    assert not isinstance(allowed, Reject), allowed


def test_a_bomb_beside_the_pixels_is_a_bomb() -> None:
    packed = zlib.compress(bytes(300 << 20))
    found = measure_image(with_chunk(chunk(b"zTXt", b"Workflow\0\0" + packed)), DecodeLimits())
    assert isinstance(found, Reject)
    assert found.reason == "decompression_bomb"
