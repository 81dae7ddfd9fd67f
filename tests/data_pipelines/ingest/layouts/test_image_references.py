"""The spellings in which records refer to images."""

from typing import Any

import pytest

from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.layouts.image_references import ImageReference, image_reference


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a.png", ImageReference(name="a.png")),
        (b"x", ImageReference(name="3", held=b"x")),
        ({"bytes": b"x", "path": "a.png"}, ImageReference(name="3", held=b"x")),
        ({"bytes": None, "path": "a.png"}, ImageReference(name="a.png")),
        ({"bytes": b"", "path": "a.png"}, ImageReference(name="a.png")),
        ({"bytes": b"", "path": None}, ImageReference(name="3", held=b"")),
        ({"path": None, "url": "http://x/a.png"}, ImageReference(name="http://x/a.png")),
        ({"image_url": {"url": "a.png"}}, ImageReference(name="a.png")),
        ({"source": {"type": "base64", "data": "eA=="}}, ImageReference(name="3", held=b"x")),
        ("data:image/png;base64,eA==", ImageReference(name="3", held=b"x")),
        ("data:text/plain,x", ImageReference(name="data:text/plain,x")),
        (None, None), (7, None), ({}, None), ({"path": None}, None), ([], None),
    ],
)  # fmt: skip
def test_names_and_bytes_are_found(value: Any, found: ImageReference | None) -> None:
    assert image_reference(value, 3) == found


def test_base64_that_is_broken_is_named() -> None:
    found = image_reference("data:image/png;base64,@@", 0)
    assert found is not None
    assert isinstance(found.held, Reject)
    assert "image 1: not valid base64" in found.held.detail
