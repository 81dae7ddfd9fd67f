"""The quick decoder gives the pixels of Pillow, and leaves to it what it has anything to say about."""

import io
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import measure_image
from data_pipelines.images.jpegs import decode_jpeg

LIMITS = decode_limits(CurationConfig(anchors=((64, 64),)))


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * height)
    soft = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return soft.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode_jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    subsampling=st.integers(0, 2),
    share=st.floats(0.05, 1.0),
)
@settings(deadline=None, max_examples=60)
def test_pixels_are_those_of_pillow(
    width: int, height: int, mode: str, progressive: bool, subsampling: int, share: float
) -> None:
    data = encode_jpeg(scene(width, height, mode), quality=80, progressive=progressive, subsampling=subsampling)
    wanted = math.ceil(width * share), math.ceil(height * share)
    with Image.open(io.BytesIO(data)) as plain:
        found = decode_jpeg(data, plain, wanted)
        plain.draft(None, wanted)
        assert found is not None
        assert found.size == plain.size
        assert np.array_equal(np.asarray(found.convert(mode)), np.asarray(plain))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode_jpeg(scene(40, 30, "CMYK")), "colours of inks"),
        (encode_jpeg(scene(40, 30))[:-200], "cut off"),
        (
            encode_jpeg(scene(40, 30)).replace(b"\xff\xda", b"\xff\xfe\x00\x04xxjunk\xff\xda", 1),
            "bytes between its parts",
        ),
    ],
)
def test_what_is_odd_is_left_to_pillow(data: bytes, why: str) -> None:
    with Image.open(io.BytesIO(data)) as header:
        assert decode_jpeg(data, header, header.size) is None, why


def test_other_formats_are_left_to_pillow() -> None:
    buffer = io.BytesIO()
    scene(40, 30).save(buffer, "PNG")
    with Image.open(io.BytesIO(buffer.getvalue())) as header:
        assert decode_jpeg(buffer.getvalue(), header, header.size) is None


def test_no_more_is_decoded_than_the_checked_header_allows() -> None:
    small, large = encode_jpeg(scene(40, 30)), encode_jpeg(scene(400, 300))
    with Image.open(io.BytesIO(small)) as header:
        assert decode_jpeg(large, header, header.size) is None


@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    kept=st.floats(0.1, 1.0),
    progressive=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_damage_is_judged_as_pillow_judges_it(edits: list[tuple[float, int]], kept: float, progressive: bool) -> None:
    data = bytearray(encode_jpeg(scene(200, 150), progressive=progressive))
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    damaged = bytes(data[: int(kept * len(data))])
    quick = measure_image(damaged, LIMITS)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("data_pipelines.images.decoding.decode_jpeg", lambda *_: None)
        plain = measure_image(damaged, LIMITS)
    assert isinstance(quick, Reject) == isinstance(plain, Reject)
    assert quick == plain
