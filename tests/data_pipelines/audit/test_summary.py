"""The audit counts what the ledger says, and its page holds every picture and no foreign markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_pipelines.audit.markup import PictureFrames
from data_pipelines.audit.page import write_audit_page
from data_pipelines.audit.summary import audit_dataset, summary_text, summary_to_json
from data_pipelines.curation.config import CurationConfig, emitting, measuring
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.datasets.reader import DatasetError
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.world import generate_world
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers

HOSTILE = '</title><script>alert("x")</script>\u202e'


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated world with copies, broken files and a licence that is an attack."""
    folder = tmp_path_factory.mktemp("audit")
    spoilt = SpoiltShares(exact_duplicates=0.1, near_duplicates=0.1, broken_files=0.1, bad_captions=0.1)
    world = ShapesConfig(
        seed=8, understanding=40, generation=40, editing=10, text=8, lines_per_file=30, spoilt=spoilt, license=HOSTILE
    )
    generate_world(folder, world)
    ingesting = IngestConfig(source=HOSTILE)
    images = open_images(sorted((folder / "images").iterdir()), max_bytes=1 << 24, max_unpacked_bytes=1 << 30)
    for shard in plan_ingest(ingesting, [folder / "annotations"]):
        ingest_shard(shard, folder / "records", ingesting, images=images)
    config = CurationConfig(anchors=((64, 64), (48, 96), (96, 48), (56, 72)), min_side=32)
    names = record_shards(folder / "records")
    for name in names:
        measure_shard(folder / "records", name, folder, measuring(config))
        judge_shard(folder / "records", folder, name, folder, config)
    copies = find_duplicates({name: folder / "analysis" / f"{name}.parquet" for name in names}, config)
    for name in names:
        emit_shard(folder / "records", folder, name, folder / "data", emitting(config), copies=copies[name])
    write_dataset(
        folder / "data", HOSTILE, {name: folder / "data" / "ledger" / f"{name}.parquet" for name in names}, config
    )
    return folder / "data"


def ledger_rows(dataset: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((dataset / "ledger").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_the_counts_are_those_of_the_ledger(dataset: Path) -> None:
    rows, summary = ledger_rows(dataset), audit_dataset(dataset)
    found = summary_to_json(summary)
    assert found["rows"] == len(rows)
    for verdict in ("keep", "drop", "duplicate", "near_duplicate"):
        chosen = [row for row in rows if row["verdict"] == verdict]
        assert found["verdicts"][verdict] == len(chosen) > 0
        assert found["bytes"][verdict] == sum(row["image_bytes"] or 0 for row in chosen)
    for name in ("reason", "task", "split"):
        for value, cell in found["tables"][name].items():
            assert sum(cell["rows"].values()) == sum((row[name] or None) == value for row in rows), (name, value)
    pictured = sum(row["width"] is not None for row in rows)
    for name in ("side", "aspect", "anchor"):
        assert sum(sum(cell["rows"].values()) for cell in found["tables"][name].values()) == pictured
    json.dumps(found)


def test_steps_come_in_their_order_and_others_by_size(dataset: Path) -> None:
    tables = audit_dataset(dataset).tables
    assert list(tables["side"]) == ["under 64", "64 to 128"]
    totals = [cell.total for cell in tables["reason"].values()]
    assert totals == sorted(totals, reverse=True)


def test_the_text_has_a_line_for_every_reason_and_no_control_characters(dataset: Path) -> None:
    summary = audit_dataset(dataset)
    text = summary_text(summary)
    assert all(f"  {reason} " in text for reason in summary.tables["reason"])
    assert "\u202e" not in text


class Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_in_itself_and_escapes_what_came_from_outside(dataset: Path, tmp_path: Path) -> None:
    summary = audit_dataset(dataset)
    write_audit_page(dataset, tmp_path / "one.html", summary)
    write_audit_page(dataset, tmp_path / "two.html", summary)
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert set(page.tags) & {"link", "iframe", "object", "form", "base"} == set()
    assert "default-src 'none'; img-src data:" in text
    assert "\u202e" not in text
    words = "".join(page.words)
    assert '</title><script>alert("x")</script>' in words
    assert all(reason in words for reason in summary.tables["reason"])


def test_copies_stand_beside_the_picture_that_was_kept(dataset: Path, tmp_path: Path) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset))
    pairs = re.findall(r'<figure class="pair">(.*?)</figure>', (tmp_path / "page.html").read_text())
    assert pairs
    assert all(pair.count("<img") == 2 for pair in pairs)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.json: no such file; expected the folder of a curated dataset"):
        audit_dataset(tmp_path)


def test_a_damaged_ledger_is_named(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    shard = json.loads((dataset / "dataset.json").read_text())["shards"][0]
    (tmp_path / "ledger" / f"{shard}.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError, match=f"{shard}.parquet: not a ledger that can be read"):
        audit_dataset(tmp_path)


def section(page: Path, key: str) -> str:
    return page.read_text(encoding="utf-8").split(f'<h2 id="{key}">')[1].split("<h2")[0]


def test_the_largest_groups_of_copies_come_first_with_their_size_in_the_whole_ledger(
    dataset: Path, tmp_path: Path
) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset))
    sizes: dict[str, int] = {}
    for row in ledger_rows(dataset):
        if row["duplicate_of"]:
            sizes[row["duplicate_of"]] = sizes.get(row["duplicate_of"], 0) + 1
    clusters = section(tmp_path / "page.html", "Copies").split('<div class="cluster">')[1:]
    sizes_told = [int(number) for cluster in clusters for number in re.findall(r"(\d+) cop", cluster)]
    kept_ids = [re.findall("<code>([0-9a-f]{12})</code>", cluster)[0] for cluster in clusters]
    shown = list(zip(sizes_told, kept_ids, strict=True))
    assert shown
    assert [size for size, _ in shown] == sorted((size for size, _ in shown), reverse=True)
    for size, kept in shown:
        assert sizes[next(sample_id for sample_id in sizes if sample_id.startswith(kept))] == size
    assert all('<figure class="first">' in cluster and cluster.count("<img") >= 2 for cluster in clusters)


def test_random_pictures_are_kept_ones_and_captions_are_of_both_kinds(dataset: Path, tmp_path: Path) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset))
    verdicts = {row["sample_id"][:12]: row["verdict"] for row in ledger_rows(dataset) if row["verdict"] == "keep"}
    random = section(tmp_path / "page.html", "Pictures")
    shown = re.findall("<code>([0-9a-f]{12})</code>", random)
    assert len(shown) == len(set(shown)) == 24
    assert all(verdicts[start] == "keep" for start in shown)
    assert random.count("<img") == 24
    captions = section(tmp_path / "page.html", "Captions")
    assert [title in captions for title in ("<h3>Kept</h3>", "<h3>Kept, text only</h3>", "<h3>Left out</h3>")] == [
        True
    ] * 3
    assert "none" in section(tmp_path / "page.html", "Quarantine")


def test_what_was_quarantined_or_contaminated_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    rows = [ledger_row(1), ledger_row(2, verdict="drop", reason="quarantined", detail="the process <died>")]
    rows += [
        ledger_row(number, verdict="drop", reason="contaminated", detail="near a picture") for number in range(3, 40)
    ]
    write_ledgers(tmp_path / "data", [rows])
    write_audit_page(tmp_path / "data", tmp_path / "page.html", audit_dataset(tmp_path / "data"))
    quarantine = section(tmp_path / "page.html", "Quarantine")
    assert "a.jsonl, row 2: the process &lt;died&gt;" in quarantine
    assert "1 in all, 1 shown" in quarantine
    contamination = section(tmp_path / "page.html", "Contamination")
    assert "37 in all, 12 shown" in contamination
    assert contamination.count("near a picture") == 12


def test_pictures_end_before_the_page_grows_too_large() -> None:
    frames = PictureFrames(max_bytes=25)
    shown = [frames.image(bytes(10)) for _ in range(4)]
    assert [text.startswith("<img") for text in shown] == [True, True, False, False]
    assert "the page is full" in shown[2]


def test_languages_have_a_table_and_older_ledgers_state_none(tmp_path: Path) -> None:
    rows = [ledger_row(number, language="de" if number % 2 else None) for number in range(10)]
    write_ledgers(tmp_path / "now", [rows])
    write_ledgers(tmp_path / "older", [rows], without=("language",))
    counts = {
        name: {value: cell.total for value, cell in audit_dataset(tmp_path / name).tables["language"].items()}
        for name in ("now", "older")
    }
    assert counts == {"now": {"de": 5, "none stated": 5}, "older": {"none stated": 10}}


def test_scores_that_are_no_objects_are_named(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "data", [[ledger_row(1, scores="[not")]])
    with pytest.raises(DatasetError, match="found rows of another kind"):
        audit_dataset(tmp_path / "data")
