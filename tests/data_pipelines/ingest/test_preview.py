"""What is read, and how, is told before anything runs."""

import json
from pathlib import Path

from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.preview import preview
from tests.data_pipelines.ingest.raw_files import line, png, raw_folder


def test_a_mixed_folder_is_told_by_its_parts(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw", "ab")
    (raw / "c.png").write_bytes(png(3))
    (raw / "c.txt").write_text("a caption")
    (raw / "notes.md").write_text("x")
    turns = [{"from": "system", "value": "Be kind."}, *line("a")["conversations"]]
    (raw / "extra.jsonl").write_text(json.dumps({"image": "images/a.png", "conversations": turns}) + "\n{broken\n")
    found = preview(IngestConfig(source="p"), [str(raw)], [str(raw / "images")])
    assert found[:5] == [
        "1 file of JSON (ILLUME+), 1 file of JSON (LLaVA)",
        "raw: 1 pictures, 1 with words beside them",
        "1 file not understood: notes.md",
        "split 'val' is guessed from the names of 1 file: annotations/some_val.jsonl",
        "1 of 4 sampled records have a system turn: it is kept, and not trained on",
    ]
    assert found[5] == '  annotations/some_val.jsonl[0]: understanding, a.png, "a red circle"'
    assert any(text.startswith("  extra.jsonl[1]: rejected, broken_json") for text in found)
    assert len(found) == 10


def test_pictures_without_words_are_said_to_be_read_so(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.png").write_bytes(png(1))
    found = preview(IngestConfig(source="p", format="images_only"), [str(tmp_path / "bench")], [])
    assert found == ["bench: 1 pictures, read without words", '  bench[0]: understanding, a.png, ""']
