"""The example data: images with captions that name what is in them, and two that curation drops."""

from pathlib import Path

from PIL import Image

from data_pipelines.shapes.captioned_images import write_captioned_images
from data_pipelines.shapes.language import parse_caption


def test_every_image_has_its_caption_except_the_two_of_no_use(tmp_path: Path) -> None:
    write_captioned_images(tmp_path / "data", 6)
    texts = [(tmp_path / "data" / f"{number:02d}.txt").read_text().strip() for number in range(6)]
    assert [bool(text) for text in texts] == [True, False, True, True, True, True]
    assert all(parse_caption(text) for text in texts if text)
    colours = [len(Image.open(tmp_path / "data" / f"{number:02d}.png").getcolors(4096)) for number in range(6)]
    assert [count == 1 for count in colours] == [True, False, False, False, False, False]
