"""WebDataset tars become records; damaged ones as far as they can be read."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines.ingest.config import IngestConfig
from tests.data_pipelines.ingest.raw_files import ingest, line, png, reasons, tar_bytes


def test_a_webdataset_tar_becomes_records(tmp_path: Path) -> None:
    turns = line("x")["conversations"]
    members = {
        "s1.png": png(1), "s1.txt": b"a red circle\n", "s1.json": b'{"license": "CC0", "split": "val", "id": "one"}',
        "s2.json": json.dumps({"conversations": turns}).encode(), "s2.png": png(2),
        "s3.png": png(3), "s4.txt": b"words only", "s5.png": png(5), "s5.json": b"{broken",
        "../s6.png": png(6), "d/s7.jpg": png(7), "d/s7.txt": b"a caption",
    }  # fmt: skip
    path = tmp_path / "part_test.tar"
    path.write_bytes(tar_bytes(members))
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    assert reasons(rows) == {
        "one": None, "s2": None, "s3": "caption_missing", "s4": "missing_file", "s5": "broken_json",
        "../s6.png": "path_traversal", "d/s7": None,
    }  # fmt: skip
    assert (rows[0]["license"], rows[0]["split"], rows[0]["task"]) == ("CC0", "val", "understanding")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero_byte"),
        (b"<html>" * 500, "broken_tar"),
        (gzip.compress(bytes(9999), mtime=0)[:-20], "truncated_archive"),
    ],
)
def test_a_container_that_cannot_be_read_is_one_row(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    assert [(row["reject"], row["source_row"]) for row in rows] == [(reason, -1)]


def test_damaged_tars_give_up_every_whole_sample(tmp_path: Path, shared: Path) -> None:
    dirty = shared / "data" / "dirty"
    truth = [json.loads(text) for text in (dirty / "tar_truth.jsonl").read_text().splitlines()]
    config = IngestConfig(source="t", format="webdataset")
    for path in sorted((dirty / "tars").iterdir()):
        rows = ingest(tmp_path / path.stem, config, [path])
        read = {row["external_id"] for row in rows if row["reject"] is None}
        wanted = {
            t["member"] for t in truth if t["where"] == f"tars/{path.name}" and t["verdict"] == "keep" and t["member"]
        }
        assert wanted <= read


def tar_rows(tmp_path: Path, members: dict[str, bytes], **config: str) -> dict[str, tuple[str | None, str | None]]:
    """The reason and last text by the key of each sample."""
    path = tmp_path / "part.tar"
    path.write_bytes(tar_bytes(members))
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset", **config), [path])
    found = {}
    for row in rows:
        turns = json.loads(row["conversations"])
        found[row["external_id"]] = (row["reject"], turns[-1]["text"] if turns else None)
    return found


def test_names_with_dots_keep_their_own_words(tmp_path: Path) -> None:
    members = {
        f"v2.{n}.{ending}": png(n) if ending == "png" else b"number %d" % n for ending in ("png", "txt") for n in (4, 5)
    }
    assert tar_rows(tmp_path, members) == {"v2.4": (None, "number 4"), "v2.5": (None, "number 5")}


@pytest.mark.parametrize(
    "members",
    [
        {"v2.4.png": png(4), "v2.4.txt": b"x", "v2.5.png": png(5)},
        {"s.jpg": png(1), "s.depth.png": png(2), "s.txt": b"x"},
        {"s.png": png(1), "s.mask.png": png(2), "s.txt": b"x"},
        {"s.png": png(1), "s.txt": b"x", "s.tags.txt": b"y"},
        {"s.png": png(1), "s.json": b"{}", "s.meta.json": b"{}"},
        {"s.png": png(1), "s.webp": png(2), "s.txt": b"x"},
    ],
)
def test_several_members_of_one_ending_are_never_guessed(tmp_path: Path, members: dict[str, bytes]) -> None:
    found = tar_rows(tmp_path, members)
    assert [reason for reason, _ in found.values()] == ["ambiguous_sample"]


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        ({"image": "jpg;png", "caption": "txt"}, "from txt"),
        ({"image": "jpg", "caption": "json.caption;txt"}, "from json"),
        ({"image": "depth.png", "caption": "tags.txt"}, "from tags"),
        ({"image": "JPG", "caption": ".txt"}, "from txt"),
    ],
)
def test_the_members_of_a_sample_can_be_stated(tmp_path: Path, stated: dict[str, str], text: str) -> None:
    members = {
        "s.depth.png": png(2), "s.jpg": png(1), "s.tags.txt": b"from tags", "s.txt": b"from txt",
        "s.json": b'{"caption": "from json"}',
    }  # fmt: skip
    assert tar_rows(tmp_path, members, **stated) == {"s": (None, text)}
    assert tar_rows(tmp_path, members, image="seg.png", caption="txt")["s"][0] == "missing_file"
    assert tar_rows(tmp_path, members, image="jpg", caption="long.txt")["s"][0] == "caption_missing"


def test_samples_of_img2dataset_keep_their_address(tmp_path: Path) -> None:
    side = {
        "caption": "a circle",
        "url": "http://x/a",
        "key": "000",
        "status": "success",
        "error_message": None,
        "sha256": "0",
    }
    path = tmp_path / "00000.tar"
    path.write_bytes(tar_bytes({"000.jpg": png(1), "000.txt": b"a circle", "000.json": json.dumps(side).encode()}))
    (row,) = ingest(tmp_path / "out", IngestConfig(source="t"), [path])
    assert (row["reject"], json.loads(row["meta"])["url"]) == (None, "http://x/a")


def test_images_of_a_conversation_are_taken_by_their_numbers(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>" * 11}, {"from": "gpt", "value": "x"}]
    members = {f"s.{n}.png": png(n) for n in range(11)} | {"s.json": json.dumps({"conversations": turns}).encode()}
    path = tmp_path / "part.tar"
    path.write_bytes(tar_bytes(members))
    (row,) = ingest(tmp_path / "out", IngestConfig(source="t"), [path])
    assert row["image_names"] == [f"s.{n}.png" for n in range(11)]


def test_names_that_are_not_utf8_stay_apart_and_leftovers_are_none(tmp_path: Path) -> None:
    members = {
        "_1.png": png(1),
        "_1.txt": b"one",
        "_2.png": png(2),
        "_2.txt": b"two",
        "._x.png": b"x",
        ".DS_Store": b"",
    }
    data = tar_bytes(members)
    path = tmp_path / "part.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_1", "\xe9").replace("_2", "\xe8"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert path.read_bytes() != data
    rows = ingest(tmp_path / "out", IngestConfig(source="t"), [path])
    assert {row["external_id"]: json.loads(row["conversations"])[-1]["text"] for row in rows} == {
        "\xe9": "one",
        "\xe8": "two",
    }


@pytest.mark.parametrize(("other", "told"), [("s1.PNG", "s1.PNG"), ("s1.TXT", "s1.TXT"), ("S1.png", "")])
def test_members_that_differ_in_letters_alone_never_give_their_words_to_another(
    tmp_path: Path, other: str, told: str
) -> None:
    path = tmp_path / "part.tar"
    path.write_bytes(tar_bytes({"s1.png": png(1), "s1.txt": b"one", other: png(2), "s2.png": png(3), "s2.txt": b"two"}))
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    first = next(row for row in rows if row["external_id"] == "s1")
    assert (first["reject"], told in (first["detail"] or "")) == ("ambiguous_sample" if told else None, True)
    assert reasons(rows)["s2"] is None


def test_a_hard_link_is_the_file_that_it_links_to_and_a_sparse_text_is_no_caption(tmp_path: Path) -> None:
    path = tmp_path / "part.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("s1.png", png(1)), ("s1.txt", b"one"), ("s2.txt", b"two"), ("s3.png", png(3))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("s2.png")
        link.type, link.linkname = tarfile.LNKTYPE, "s1.png"
        tar.addfile(link)
        sparse = tarfile.TarInfo("GNUSparseFile.1/s3.txt")
        sparse.size, sparse.pax_headers = 515, {"GNU.sparse.major": "1", "GNU.sparse.name": "s3.txt"}
        tar.addfile(sparse, io.BytesIO(b"1\n0\n3\n".ljust(512, b"\0") + b"one"))
    rows = ingest(tmp_path / "out", IngestConfig(source="t", format="webdataset"), [path])
    assert reasons(rows) == {"s1": None, "s2": None, "s3": "caption_missing", "s3.txt": "not_regular_file"}
    assert rows[1]["images"] == rows[0]["images"]
