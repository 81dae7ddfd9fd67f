"""Search in ledgers and token files finds the rows of samples, images, their look-alikes and copies."""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.curation.emit import LEDGER_SCHEMA
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.records import canonical
from data_pipelines.duplicates.near_hashes import near_limit
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import SearchResult, find_everywhere, find_samples, find_tokens
from models.errors import DataError
from tests.data_pipelines.conftest import MakeDataset
from tests.data_pipelines.tiny_run import TinyRun


@pytest.fixture(scope="module")
def kept(tiny_run: TinyRun) -> list[dict[str, object]]:
    """Rows of kept samples with an image."""
    rows = [row for path in sorted((tiny_run.dataset / "ledger").iterdir()) for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["verdict"] == "keep" and row["images"]]


def found(dataset: Path, *texts: str) -> set[tuple[str, str]]:
    questions = Questions()
    for text in texts:
        questions.add(text)
    return {(match.sample_id, match.found_by) for match in find_samples(dataset, questions)}


def test_a_sample_is_found_by_its_id_its_image_and_its_name(tiny_run: TinyRun, kept: list[dict[str, object]]) -> None:
    row = kept[3]
    sample_id, image = str(row["sample_id"]), str(row["images"][0])  # type: ignore[index]  # a list
    assert found(tiny_run.dataset, sample_id) == {(sample_id, "sample id")}
    assert (sample_id, "image") in found(tiny_run.dataset, image.upper())
    assert found(tiny_run.dataset, str(row["external_id"])) == {(sample_id, "source's id")}
    assert found(tiny_run.dataset, "0" * 64, "nobody") == set()
    (match,) = find_samples(tiny_run.dataset, Questions(digests={sample_id}))
    assert (match.source_file, match.source_row, match.verdict) == (row["source_file"], row["source_row"], "keep")


def test_an_image_file_finds_itself_and_look_alikes(tiny_run: TinyRun, tmp_path: Path) -> None:
    dataset = CuratedDataset(tiny_run.dataset)
    shard = next(name for name in dataset.shards if len(dataset.rows(name, tasks=("generation",)).ids))
    stored = next(dataset.stored_samples(shard, dataset.rows(shard, tasks=("generation",))))
    exact, smaller = tmp_path / "exact.png", tmp_path / "smaller.png"
    exact.write_bytes(stored.image_bytes(0))
    with Image.open(io.BytesIO(stored.image_bytes(0))) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(smaller)
    for path, near, expected in ((exact, 0, "image"), (smaller, 12, "looks like")):
        questions = Questions(near=near)
        questions.add_image(path)
        ways = {match.sample_id: match.found_by for match in find_samples(tiny_run.dataset, questions)}
        assert ways[stored.sample.sample_id].startswith(expected)


def test_rows_of_codes_are_named(make_dataset: MakeDataset) -> None:
    made = make_dataset(12)
    ids = [sample_id for sample_id, wanted in zip(made.ids, made.samples, strict=True) if wanted.task == "editing"]
    rows = list(find_tokens(made.tokens, ids[:1]))
    assert [(row.sample_id, row.slot) for row in rows] == [(ids[0], 0), (ids[0], 1)]
    assert rows[1].row == rows[0].row + 1


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected the folder of a curated dataset"):
        list(find_samples(tmp_path, Questions()))


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ledger_row(number: int, **changes: Any) -> dict[str, Any]:
    """A kept row with one image, as curation writes it."""
    row = dict.fromkeys(LEDGER_SCHEMA.names) | {
        "sample_id": digest_of(f"sample {number}"),
        "external_id": f"name-{number}",
        "source": "web",
        "source_file": "a.jsonl",
        "source_row": number,
        "images": [digest_of(f"picture {number}")],
        "image_names": [f"images/{number}.jpg"],
        "meta": "{}",
        "phash": [number * 0x9E3779B97F4A7C15 % 2**64],
        "verdict": "keep",
        "shard": "s",
        "row": number,
    }
    return row | changes


def write_ledgers(folder: Path, ledgers: Sequence[Sequence[dict[str, Any]]]) -> Path:
    (folder / "ledger").mkdir(parents=True)
    names = [f"s-{number}" for number in range(len(ledgers))]
    for name, rows in zip(names, ledgers, strict=True):
        table = pa.Table.from_pylist(list(rows), schema=LEDGER_SCHEMA)
        pq.write_table(table, folder / "ledger" / f"{name}.parquet", row_group_size=3)
    (folder / "dataset.json").write_text(json.dumps({"format": 1, "shards": names, "anchors": []}))
    return folder


def plainly(rows: Iterable[dict[str, Any]], questions: Questions) -> list[tuple[int, str]]:
    """The rows that match, and how, found row by row."""
    found = []
    for row in rows:
        distances = {
            file: min(((wanted ^ phash).bit_count() for phash in row["phash"]), default=65)
            for file, wanted in questions.phashes.items()
        }
        near = [
            f"looks like {f} ({d} of 64 bits differ)"
            for f, d in distances.items()
            if d <= near_limit(questions.phashes[f], questions.near)
        ]
        ways = [
            ["sample id"] * (row["sample_id"] in questions.digests),
            ["image"] * (not questions.digests.isdisjoint(row["images"])),
            ["source's id"] * (row["external_id"] in questions.names),
            near if questions.near else [],
        ]
        first = next((way[0] for way in ways if way), None)
        if first:
            found.append((row["source_row"], first))
    return found


PHOTO = 0x0F0F0F0F0F0F0F0F  # half of its bits are set
ALL = 2**64 - 1

hashes = st.builds(
    lambda base, bits: base ^ sum(1 << bit for bit in bits),
    st.sampled_from([0, 0x0123456789ABCDEF, 2**64 - 1]),
    st.sets(st.integers(0, 63), max_size=12),
)


@settings(max_examples=60, deadline=None)
@given(
    phashes=st.lists(st.lists(hashes, max_size=3), min_size=1, max_size=20),
    asked=st.lists(hashes, max_size=6),
    numbers=st.sets(st.integers(0, 22), max_size=4),
    near=st.sampled_from([0, 1, 4, 10, 17, 40]),
    cut=st.integers(0, 20),
)
def test_blocks_of_columns_match_like_a_plain_walk_over_the_rows(
    phashes: list[list[int]], asked: list[int], numbers: set[int], near: int, cut: int
) -> None:
    rows = [
        ledger_row(number, phash=row_hashes, images=[digest_of(f"{number}/{slot}") for slot in range(len(row_hashes))])
        for number, row_hashes in enumerate(phashes)
    ]
    questions = Questions(near=near, phashes={f"file {number}": phash for number, phash in enumerate(asked)})
    ways = ("sample {}", "{}/0", "{}/1")
    questions.add_all([digest_of(ways[number % 3].format(number)) for number in numbers])
    questions.add_all([f"name-{number}" for number in numbers if number % 4 == 0])
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_ledgers(Path(folder) / "d", [rows[:cut], rows[cut:]])
        found = [(match.source_row, match.found_by) for match in find_samples(dataset, questions)]
    assert found == plainly(rows, questions)


def ways_of(found: SearchResult) -> dict[str, dict[int, str]]:
    return {name: {match.source_row: match.found_by for match in matches} for name, matches in found.matches.items()}


def test_look_alikes_of_an_asked_digest_are_found_everywhere_and_a_chain_does_not_grow(tmp_path: Path) -> None:
    asked = ledger_row(0, phash=[PHOTO])
    first = [asked, ledger_row(1, phash=[PHOTO ^ 0b111]), ledger_row(2, phash=[PHOTO ^ 0b111111]), ledger_row(3)]
    second = [ledger_row(4, phash=[PHOTO ^ 0b1, PHOTO ^ ALL])]
    datasets = {name: write_ledgers(tmp_path / name, [rows]) for name, rows in (("first", first), ("second", second))}
    digest = asked["images"][0]
    expected = {
        "first": {0: "image", 1: f"looks like {digest[:16]} (3 of 64 bits differ)"},
        "second": {4: f"looks like {digest[:16]} (1 of 64 bits differ)"},
    }
    assert ways_of(find_everywhere(datasets, Questions(digests={digest}, near=4))) == expected
    assert ways_of(find_everywhere(datasets, Questions(digests={digest}))) == {"first": {0: "image"}, "second": {}}
    by_id = find_everywhere(datasets, Questions(digests={asked["sample_id"]}, near=4))
    assert {match.question for matches in by_id.matches.values() for match in matches} == {asked["sample_id"]}


def test_drawings_are_near_only_if_they_are_nearer_than_any_two_drawings(tmp_path: Path) -> None:
    """Of a drawing on a plain ground few bits are set, so that all of them are within 10 bits of each other."""
    drawing = 0b11_0000_0000_0011_0000_0101
    others = [drawing ^ bit for bit in (0b1, 0b1_1000, 0b1111_1000, 0b11_1100_1111)]
    rows = [ledger_row(0, phash=[drawing]), *(ledger_row(n, phash=[h]) for n, h in enumerate(others, 1))]
    found = find_samples(write_ledgers(tmp_path / "d", [rows]), Questions(near=10, phashes={"x.png": drawing}))
    assert {match.source_row: match.distance for match in found} == {0: 0, 1: 1, 2: 2}
    flat = Questions(near=10, phashes={"x.png": PHOTO}, entropies={"x.png": 1.5})
    photos = [ledger_row(n, phash=[h ^ drawing ^ PHOTO]) for n, h in enumerate([drawing, *others])]
    found = find_samples(write_ledgers(tmp_path / "p", [photos]), Questions(near=10, phashes={"x.png": PHOTO}))
    assert {match.source_row for match in found} == {0, 1, 2, 3, 4}
    assert {match.source_row for match in find_samples(tmp_path / "p", flat)} == {0, 1, 2}


def test_only_look_alikes_of_the_image_in_question_are_found(tmp_path: Path) -> None:
    pair = ledger_row(0, images=["a" * 64, "b" * 64], phash=[PHOTO, PHOTO ^ ALL])
    rows = [pair, ledger_row(1, phash=[PHOTO ^ 1]), ledger_row(2, phash=[PHOTO ^ ALL ^ 1])]
    datasets = {"d": write_ledgers(tmp_path / "d", [rows])}
    assert set(ways_of(find_everywhere(datasets, Questions(digests={"b" * 64}, near=3)))["d"]) == {0, 2}
    assert set(ways_of(find_everywhere(datasets, Questions(digests={pair["sample_id"]}, near=3)))["d"]) == {0, 1, 2}


def test_a_hash_stands_for_no_other_image_of_a_sample_with_one_that_cannot_be_decoded(tmp_path: Path) -> None:
    damaged = ledger_row(0, images=["a" * 64, "b" * 64], phash=[PHOTO ^ ALL], verdict="drop")  # only "b" has a hash
    sound = ledger_row(1, images=["a" * 64], phash=[PHOTO])
    rows = [damaged, sound, ledger_row(2, phash=[PHOTO ^ 1]), ledger_row(3, phash=[PHOTO ^ ALL ^ 1])]
    datasets = {"d": write_ledgers(tmp_path / "d", [rows])}
    assert set(ways_of(find_everywhere(datasets, Questions(digests={"a" * 64}, near=3)))["d"]) == {0, 1, 2}


def test_a_damaged_ledger_is_an_error_in_the_data(tmp_path: Path) -> None:
    dataset = write_ledgers(tmp_path / "d", [[ledger_row(0)]])
    (dataset / "ledger" / "s-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a ledger that can be read"):
        find_everywhere({"d": dataset}, Questions(names={"name-0"}))


def test_dropped_copies_and_samples_kept_in_their_place_are_found(tmp_path: Path) -> None:
    kept, other = ledger_row(0), ledger_row(1)
    copy = ledger_row(2, verdict="duplicate", duplicate_of=kept["sample_id"], shard=None)
    similar = ledger_row(3, verdict="near_duplicate", duplicate_of=kept["sample_id"], shard=None)
    datasets = {
        "one": write_ledgers(tmp_path / "one", [[kept, other], [copy, similar]]),
        "two": write_ledgers(tmp_path / "two", [[kept]]),
    }
    exact, near = (
        {
            asked: ways_of(find_everywhere(datasets, Questions(names={asked}, near=bits)))
            for asked in ("name-0", "name-2", "name-3")
        }
        for bits in (0, 1)
    )
    short, name = kept["sample_id"][:16], "a copy that was dropped"
    assert exact["name-0"] == {"one": {0: "source's id", 2: f"a copy of {short}"}, "two": {0: "source's id"}}
    assert exact["name-2"] == {"one": {2: "source's id", 0: name}, "two": {0: name}}
    assert exact["name-3"] == {"one": {3: "source's id"}, "two": {}}
    assert near["name-0"]["one"][3] == f"a copy of {short}"
    assert near["name-3"] == {"one": {3: "source's id", 0: name}, "two": {0: name}}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*://Photos.Example.com/*", [0, 1]),
        ("https://photos.example.com/a.jpg?size=2", [0]),
        ("*/a?b/*", [2]),
        ("web-*", [3]),
        ("web-shop", [3]),
        ("*/4.jpg", [4]),
        ("b.jsonl", [5]),
        ("*é*", [6]),
        ("www.plain.org/x", [7]),
        ("not an address", []),
        ("*nothing*", []),
    ],
)
def test_samples_are_found_by_where_they_come_from(tmp_path: Path, pattern: str, expected: list[int]) -> None:
    rows = [
        ledger_row(0, meta=canonical({"source_url": "https://photos.example.com/A.jpg?size=2"})),
        ledger_row(1, meta=canonical({"pages": [{"seen_at": "http://photos.example.com/"}]})),
        ledger_row(2, meta=canonical({"link": 'x/a"b/c'})),
        ledger_row(3, source="web-shop"),
        ledger_row(4),
        ledger_row(5, source_file="b.jsonl", meta=canonical({"note": "not an address"})),
        ledger_row(6, meta=canonical({"url": "http://caf\u00c9.example"})),
        ledger_row(7, meta=canonical({"image_url": "www.plain.org/x"})),
    ]
    dataset = write_ledgers(tmp_path / "d", [rows])
    questions = Questions()
    questions.add_url(pattern)
    found = find_everywhere({"d": dataset}, questions)
    assert [match.source_row for match in found.matches["d"]] == expected
    assert found.unanswered == ([] if expected else [pattern])


def test_questions_that_nothing_answers_are_named(tmp_path: Path) -> None:
    dataset = write_ledgers(tmp_path / "d", [[ledger_row(0), ledger_row(1, phash=[7])]])
    questions = Questions(near=2, phashes={"seen.png": 7, "unseen.png": 0xFFFF << 40})
    questions.images |= {"seen.png": "c" * 64, "unseen.png": "d" * 64}
    questions.add_all([digest_of("picture 0"), "e" * 64, "name-0", "name-9", "c" * 64, "d" * 64])
    found = find_everywhere({"d": dataset}, questions)
    assert found.unanswered == ["unseen.png", "e" * 64, "name-9"]
    assert questions.num_asked == 6
