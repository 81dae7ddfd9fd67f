"""Pixels are handed on as they lie in memory, whatever the size and kind of the image."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.datasets.records import Reject
from data_pipelines.images import decoding
from data_pipelines.images.decoding import pixel_array

LARGE = (3000, 2000)  # more than one of the pieces of memory that Pillow takes


@pytest.mark.parametrize("size", [(1, 1), (37, 20), LARGE])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_those_of_the_image_with_a_filled_fourth_channel(mode: str, size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize(size).convert(mode)
    if mode == "RGB":
        image.paste((250, 3, 90), (0, 0, size[0], size[1] // 2))
    found_YXC = pixel_array(image)
    expected_YXC = np.asarray(image).reshape(size[1], size[0], -1)
    assert found_YXC.shape == (size[1], size[0], 1 if mode == "L" else 4)
    assert np.array_equal(found_YXC[:, :, : expected_YXC.shape[2]], expected_YXC)
    assert mode == "L" or (found_YXC[:, :, 3] == 255).all()


def test_pixels_in_one_block_of_memory_are_not_copied() -> None:
    room_YXC = np.zeros((20, 30, 4), np.uint8)
    image = Image.frombuffer("RGBX", (30, 20), room_YXC, "raw", "RGBX", 0, 1)
    assert np.shares_memory(pixel_array(image), room_YXC)


def test_each_signature_stands_for_one_format() -> None:
    signatures = [magic for magic, _ in decoding._MAGIC]
    assert len(set(signatures)) == len(signatures)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (b"\n<!DOCTYPE HTML><html>404</html>", "a web page, as failed downloads leave it"),
        (b"\x1f\x8b\x08packed", "compressed; unpack it"),
        (b"words of somebody", "begins with b'words of somebod'"),
    ],
)
def test_what_stands_in_place_of_an_image_is_called_by_its_name(data: bytes, hint: str) -> None:
    found = decoding.decode(data, decode_limits(CurationConfig(anchors=((64, 64),))))
    assert isinstance(found, Reject)
    assert (found.reason, hint in found.detail) == ("not_an_image", True)
