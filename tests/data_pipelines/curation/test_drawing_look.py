"""Images of writing that only look alike are kept, copies of them are not."""

from pathlib import Path
from random import Random

from PIL import Image, ImageOps

from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.drawing_look import MAX_DIFFERENT, DrawingLook, LookQuestion
from tests.data_pipelines.curation.curated import curate, encoded, records_of
from tests.data_pipelines.images.drawings import COPIES, equation

CONFIG = CurationConfig(anchors=((64, 64),), min_side=32, duplicate_scope="image", max_aspect=20.0)


def coloured(image: Image.Image) -> bytes:
    return encoded(image.convert("RGB"))


def test_formulas_are_kept_and_their_copies_are_dropped(tmp_path: Path) -> None:
    drawn = [equation(Random(seed)) for seed in range(6)]
    samples = [(f"formula-{number}", coloured(image), f"answer {number}") for number, image in enumerate(drawn)]
    copy = COPIES["JPEG of quality 90"](drawn[2])
    samples += [("copy", coloured(copy), "answer 2"), ("mirror", coloured(ImageOps.mirror(drawn[1])), "answer 1")]
    ledger = curate(records_of(tmp_path, samples), tmp_path / "out", CONFIG)
    assert {name: row["reason"] for name, row in ledger.items() if row["verdict"] != "keep"} == {
        "copy": "similar_image", "mirror": "mirrored_image",
    }  # fmt: skip
    assert ledger["copy"]["duplicate_of"] == ledger["formula-2"]["sample_id"]


def test_photographs_are_judged_by_their_hashes_and_the_work_is_bounded() -> None:
    look = DrawingLook()
    look.add(0, "a", {"images": ["00"], "scores": '{"entropy": 7.5}'})
    for index in range(1, MAX_DIFFERENT + 3):
        look.add(index, "a", {"images": [f"{index:02}"], "scores": '{"entropy": 1.5}'})
    assert look.same(0, 1, mirrored=False)
    asked: list[LookQuestion] = []
    assert not look.settle(lambda questions: [True])
    for index in range(2, MAX_DIFFERENT + 3):
        assert not look.same(1, index, mirrored=False)  # not answered yet
    assert look.settle(lambda questions: [bool(asked.append(question)) for question in questions])
    assert [question.other_images for question in asked] == [(f"{index:02}",) for index in range(2, MAX_DIFFERENT + 2)]
    assert not look.settle(lambda questions: [])


def test_an_answer_counts_when_the_search_begins_anew() -> None:
    look = DrawingLook()
    for index in range(2):
        look.add(index, "ab"[index], {"images": [str(index)], "scores": "{}" if index else '{"entropy": 1}'})
    assert look.same(0, 1, mirrored=True)  # one of them is no drawing
    look.add(1, "b", {"images": ["1"], "scores": '{"entropy": 1}'})
    assert not look.same(0, 1, mirrored=True)
    assert look.settle(lambda questions: [True for _ in questions])
    assert look.same(0, 1, mirrored=True)
    assert not look.same(0, 1, mirrored=False)  # another question
