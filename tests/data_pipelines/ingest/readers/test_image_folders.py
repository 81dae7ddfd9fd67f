"""Folders of images with their words beside them."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from data_pipelines.ingest.config import IngestConfig
from tests.data_pipelines.ingest.raw_files import counted_names, ingest, png, reasons

PAIRS = IngestConfig(source="f", format="image_caption_pairs")
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a circle"}]


def folder_of(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def texts(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["external_id"]: json.loads(row["conversations"])[-1]["text"] for row in rows if not row["reject"]}


def test_words_are_found_beside_the_image(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", {
        "a.png": png(1), "a.txt": "from txt", "a.caption": "no",
        "b.png": png(2), "b.caption": "from caption", "c.v2.png": png(3), "c.v2.text": "from text",
        "d.png": png(4), "d.json": json.dumps({"caption": "from json", "license": "MIT", "url": "u"}),
        "e.png": png(5), "e.json": json.dumps({"conversations": TURNS}), "f.png": png(6), "f.json": "{",
        "g.png": png(7), "train/h.png": png(8), "train/h.txt": "h", "validation/i.png": png(9), "validation/i.txt": "i",
        "j.png": png(10), "j.txt": "from txt", "j.json": json.dumps({"license": "CC0", "caption": "no"}),
    })  # fmt: skip
    rows = ingest(tmp_path / "out", PAIRS, [folder])
    assert {name: reason for name, reason in reasons(rows).items() if reason} == {
        "f.png": "broken_json", "g.png": "caption_missing",
    }  # fmt: skip
    assert texts(rows) == {
        "a.png": "from txt", "b.png": "from caption", "c.v2.png": "from text",
        "d.png": "from json", "e.png": "a circle",
        "train/h.png": "h", "validation/i.png": "i", "j.png": "from txt",
    }  # fmt: skip
    by_name = {row["external_id"]: row for row in rows}
    assert (by_name["d.png"]["license"], json.loads(by_name["d.png"]["meta"])) == ("MIT", {"url": "u"})
    assert (by_name["train/h.png"]["split"], by_name["validation/i.png"]["split"]) == ("train", "val")
    assert by_name["j.png"]["license"] == "CC0"


@pytest.mark.parametrize("stated", ["tags", "json.nested.text", "missing;tags"])
def test_the_file_of_the_words_can_be_stated(tmp_path: Path, stated: str) -> None:
    side = json.dumps({"caption": "no", "nested": {"text": "right"}})
    folder = folder_of(tmp_path / "f", {"a.png": png(1), "a.txt": "no", "a.tags": "right", "a.json": side})
    rows = ingest(tmp_path / "out", IngestConfig(source="f", format="image_caption_pairs", caption=stated), [folder])
    assert texts(rows) == {"a.png": "right"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("beside", ["a.text", "a.png.txt", "a.TXT", "a.png.CAPTION", "a.json", "a.png.json", "a.JSON"])
def test_words_are_read_in_every_spelling_and_encoding(tmp_path: Path, beside: str, encoding: str) -> None:
    text = json.dumps({"caption": "café"}) if beside.lower().endswith("json") else "café"
    data = text.encode(encoding) if encoding != "utf-16-be" else b"\xfe\xff" + text.encode(encoding)
    folder = folder_of(tmp_path / "f", {"x/a.png": png(1), f"x/{beside}": data})
    assert texts(ingest(tmp_path / "out", IngestConfig(source="f"), [folder])) == {"x/a.png": "café"}


def test_words_that_may_be_those_of_another_image_are_not_taken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", {
        "a.jpg": png(1), "a.png": png(2), "a.txt": "of which?", "b.jpg": png(3), "b.png": png(4),
        "b.jpg.txt": "of the jpg", "b.png.txt": "of the png", "c.png": png(5), "c.txt": "of c",
    })  # fmt: skip
    rows = ingest(tmp_path / "out", PAIRS, [folder])
    assert texts(rows) == {"b.jpg": "of the jpg", "b.png": "of the png", "c.png": "of c"}
    assert [name for name, reason in reasons(rows).items() if reason == "ambiguous_sample"] == ["a.jpg", "a.png"]
    stated = IngestConfig(source="f", format="image_caption_pairs", image="png", rows_per_shard=1)
    rows = ingest(tmp_path / "out", stated, [folder])
    assert texts(rows) == {"a.png": "of which?", "b.png": "of the png", "c.png": "of c"}


def test_every_file_that_words_are_read_from_is_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", {"a.png": png(1), "a.caption": "words", "b.png": png(2)})
    (names,) = counted_names(PAIRS, [folder])
    assert {"a.png", "a.caption", "a.txt", "a.json", "b.txt", "b.text"} <= set(names)
    assert "b.png" not in names  # without words it is not opened


def test_odd_names_are_read(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "é")
    folder = folder_of(tmp_path / "f", {
        f"{nfd}.png": png(1), "é.txt": "nfc", "a b [1] (2)#3%20?'\".png": png(2), "a b [1] (2)#3%20?'\".txt": "odd",
    })  # fmt: skip
    latin = os.fsencode(folder) + b"/caf\xe9"
    for ending, data in ((b".png", png(3)), (b".txt", b"latin")):
        with open(latin + ending, "wb") as file:
            file.write(data)
    rows = ingest(tmp_path / "out", PAIRS, [folder])
    assert sorted(texts(rows).values()) == ["latin", "nfc", "odd"]


def test_words_of_a_name_in_other_letters_or_escapes_are_those_of_another_image(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", {
        "A.png": png(1), "a.png": png(2), "a.txt": "small", "B.PNG": png(3), "b.txt": "nobody's",
        "c d.png": png(4), "c d.txt": "with a blank", "c%20d.png": png(5), "%00.png": png(6), "%00.txt": "escaped nul",
        f"{'é' * 100}.png": png(7), f"{'é' * 100}.txt": "long in its other normal form",
    })  # fmt: skip
    rows = ingest(tmp_path / "out", PAIRS, [folder])
    assert {name for name, reason in reasons(rows).items() if reason} == {"A.png", "B.PNG", "c%20d.png"}
    assert texts(rows) == {
        "a.png": "small", "c d.png": "with a blank", "%00.png": "escaped nul",
        f"{'é' * 100}.png": "long in its other normal form",
    }  # fmt: skip


def test_links_to_nothing_and_pipes_are_rejected_and_not_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", {"a.png": png(1), "a.txt": "fine", "b.txt": "two", "c.txt": "three"})
    (folder / "b.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "c.png")
    assert reasons(ingest(tmp_path / "out", PAIRS, [folder])) == {
        "a.png": None, "b.png": "missing_file", "c.png": "unsafe_path",
    }  # fmt: skip
