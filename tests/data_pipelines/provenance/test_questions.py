"""Questions are read from texts, lists and images; what holds none is refused."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data_pipelines.provenance.questions import Questions, addresses_of


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_lists_of_questions_are_read_from_texts_and_tables(tmp_path: Path) -> None:
    ids = [digest_of(str(number)) for number in range(3)]
    columns = {"sample_id": [*ids[:2], None], "url": ["HTTP://x.org/?a", "", "http://y.org"], "note": ["n"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    pa.csv.write_csv(pa.table(columns), tmp_path / "b.csv")
    lines = [json.dumps({name: value[row] for name, value in columns.items()}) for row in range(3)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    for name in ("a.parquet", "b.csv", "c.jsonl"):
        questions = Questions()
        questions.add_file(tmp_path / name)
        assert (questions.digests, questions.urls) == (set(ids[:2]), {"http://x.org/?a", "http://y.org"}), name
        assert (questions.names, questions.num_asked) == (set(), 4)
    (tmp_path / "d.txt").write_text(f"{ids[0].upper()}\n\n name-1 \n", encoding="utf-8-sig")
    questions = Questions()
    questions.add_file(tmp_path / "d.txt")
    assert (questions.digests, questions.names) == ({ids[0]}, {"name-1"})
    pq.write_table(pa.table({"note": ["n"]}), tmp_path / "e.parquet")
    (tmp_path / "f.parquet").write_bytes(b"no table")
    (tmp_path / "empty.txt").write_text("\n")
    for name, message in (
        ("e.parquet", "no column named sample_id, sha256, url; found"),
        ("f.parquet", "not a .parquet that can be read"),
        ("empty.txt", "holds no question"),
    ):
        with pytest.raises(ValueError, match=message):
            Questions().add_file(tmp_path / name)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"fake\.png: not_an_image"):
        Questions().add_image(tmp_path / "fake.png")


def test_web_addresses_are_found_at_any_depth_of_the_meta() -> None:
    meta = {"a": [{"b": "http://x.org"}], "image_url": "y.org/1", "hrefs": ["z.org"], "note": "x.org", "n": 3}
    assert sorted(addresses_of(json.dumps(meta))) == ["http://x.org", "y.org/1", "z.org"]
    assert list(addresses_of("{broken")) == []
