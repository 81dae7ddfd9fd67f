"""The page of an audit shows every image and no foreign markup."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from data_pipelines.audit.drift import measure_drift
from data_pipelines.audit.origin import Origin, Threshold
from data_pipelines.audit.page import write_audit_page
from data_pipelines.audit.summary import audit_dataset, printable
from tests.data_pipelines.ledger_rows import ledger_row, read_ledgers, write_ledgers
from tests.pages import ATTACKS, PAYLOADS, assert_is_whole_page


def section(page: Path, key: str) -> str:
    return page.read_text(encoding="utf-8").split(f'<h2 id="{key}">')[1].split("<h2")[0]


def test_the_page_is_self_contained_and_escapes_foreign_text(dataset: Path, thumbnails: Path, tmp_path: Path) -> None:
    summary = audit_dataset(dataset)
    write_audit_page(dataset, tmp_path / "one.html", summary, thumbnails=thumbnails)
    write_audit_page(dataset, tmp_path / "two.html", summary, thumbnails=thumbnails)
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.html").read_text(encoding="utf-8")
    page = assert_is_whole_page(text)
    assert page.links
    assert '</title><script>alert("x")</script>' in page.words
    assert all(reason in page.words for reason in summary.tables["reason"])


@settings(max_examples=8, deadline=None)
@given(PAYLOADS)
@example("".join(ATTACKS))
def test_hostile_values_stay_text_wherever_they_stand(tmp_path_factory: pytest.TempPathFactory, payload: str) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    hostile = dict.fromkeys(("source", "source_file", "license", "split", "format", "caption", "language"), payload)
    rows = [
        ledger_row(1, **hostile),
        ledger_row(2, **hostile, task="text"),
        ledger_row(3, **hostile, task=payload),
        ledger_row(4, **hostile, verdict="drop", reason=payload),
        ledger_row(5, **hostile, verdict="drop", reason="quarantined", detail=payload),
        ledger_row(6, **hostile, verdict="duplicate", reason="sha256", duplicate_of=ledger_row(1)["sample_id"]),
    ]
    now, then = folder / "now", folder / "then"
    write_ledgers(now, [rows], called=payload)
    write_ledgers(then, [[ledger_row(9)]], called=payload)
    summary, earlier = audit_dataset(now), audit_dataset(then)
    write_audit_page(now, folder / "page.html", summary, measure_drift(now, summary, then, earlier))
    page = assert_is_whole_page((folder / "page.html").read_text(encoding="utf-8"))
    shown = printable(payload)
    assert f"Audit of {shown}" in page.words
    assert page.words.count(shown) > 10
    assert f"Changes since {shown}" in page.words


def test_copies_are_shown_next_to_the_kept_image(dataset: Path, thumbnails: Path, tmp_path: Path) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset), thumbnails=thumbnails)
    pairs = re.findall(r'(?s)<figure class="pair">(.*?)</figure>', (tmp_path / "page.html").read_text())
    assert pairs
    assert all(pair.count("<img") == 2 for pair in pairs)


def test_the_largest_groups_of_copies_come_first_with_their_size_in_the_whole_ledger(
    dataset: Path, thumbnails: Path, tmp_path: Path
) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset), thumbnails=thumbnails)
    sizes: dict[str, int] = {}
    for row in read_ledgers(dataset):
        if row["duplicate_of"]:
            sizes[row["duplicate_of"]] = sizes.get(row["duplicate_of"], 0) + 1
    clusters = section(tmp_path / "page.html", "Copies").split('<div class="cluster">')[1:]
    shown_sizes = [int(number) for cluster in clusters for number in re.findall(r"(\d+) cop", cluster)]
    kept_ids = [re.findall("<code>([0-9a-f]{12})</code>", cluster)[0] for cluster in clusters]
    shown = list(zip(shown_sizes, kept_ids, strict=True))
    assert shown
    assert [size for size, _ in shown] == sorted((size for size, _ in shown), reverse=True)
    for size, kept in shown:
        assert sizes[next(sample_id for sample_id in sizes if sample_id.startswith(kept))] == size
    assert all('<figure class="first">' in cluster and cluster.count("<img") >= 2 for cluster in clusters)


def test_random_images_are_of_kept_samples_and_captions_of_both_kinds(
    dataset: Path, thumbnails: Path, tmp_path: Path
) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset), thumbnails=thumbnails)
    verdicts = {row["sample_id"][:12]: row["verdict"] for row in read_ledgers(dataset) if row["verdict"] == "keep"}
    random = section(tmp_path / "page.html", "Images")
    shown = re.findall("<code>([0-9a-f]{12})</code>", random)
    assert len(shown) == len(set(shown)) == 24
    assert all(verdicts[start] == "keep" for start in shown)
    assert random.count("<img") == 24
    captions = section(tmp_path / "page.html", "Captions")
    assert [title in captions for title in ("<h3>Kept</h3>", "<h3>Kept, text only</h3>", "<h3>Not kept</h3>")] == [
        True
    ] * 3
    assert "none" in section(tmp_path / "page.html", "Quarantine")


def test_quarantined_and_contaminated_samples_are_listed_with_their_source(tmp_path: Path) -> None:
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


def test_the_page_names_its_origin_and_every_threshold(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "data", [[ledger_row(1)]])
    summary = audit_dataset(tmp_path / "data")
    write_audit_page(tmp_path / "data", tmp_path / "page.html", summary)
    assert "Not known: this folder does not come from a store" in section(tmp_path / "page.html", "Thresholds")
    assert "no evaluation set was given" not in section(tmp_path / "page.html", "Contamination")
    origin = Origin(
        facts=[("run", "r1 of recipe photos"), ("asked for by", "<alice>")],
        thresholds=[
            Threshold(stage="curated", name="min_side", value="96"),
            Threshold(stage="curated", name="max_aspect", value="5.0", is_default=True),
        ],
        evaluation_images=0,
    )
    write_audit_page(tmp_path / "data", tmp_path / "page.html", summary, origin=origin)
    page = assert_is_whole_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "r1 of recipe photos" in page.words
    assert "<alice>" in page.words
    thresholds = section(tmp_path / "page.html", "Thresholds")
    assert "<b>96</b>" in thresholds
    assert "<td>5.0</td>" in thresholds
    assert "Not checked: no evaluation set was given" in section(tmp_path / "page.html", "Contamination")


def test_people_who_do_not_see_the_page_get_its_content(dataset: Path, thumbnails: Path, tmp_path: Path) -> None:
    write_audit_page(dataset, tmp_path / "page.html", audit_dataset(dataset), thumbnails=thumbnails)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all("scope=" in heading for heading in re.findall("<th[ >][^>]*>", text))
    assert text.count("<table") == text.count("<caption")
    images = re.findall('<img alt="([^"]*)"', text)
    assert images
    assert all(images)
    captions = {row["caption"] for row in read_ledgers(dataset) if row["caption"]}
    assert any(alt in captions for alt in images)
    assert "@media print" in text
