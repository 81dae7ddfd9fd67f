"""Drift says what came, what went and what shifted, whatever the order of rows and shards and however little memory."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.audit.drift import drift_text, drift_to_json, measure_drift, sample_changes, stability_index
from data_pipelines.audit.page import write_audit_page
from data_pipelines.audit.summary import audit_dataset
from data_pipelines.datasets.reader import DatasetError
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10_000), max_size=6)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_index_is_no_less_than_nothing_and_the_same_both_ways(then: dict[str, int], now: dict[str, int]) -> None:
    index = stability_index(then, now)
    assert index >= 0
    assert math.isclose(index, stability_index(now, then), rel_tol=1e-9, abs_tol=1e-12)
    assert stability_index(then, then) == 0


def test_the_index_is_that_of_the_formula() -> None:
    # (0.5 - 0.4) ln(0.5 / 0.4) + (0.5 - 0.6) ln(0.5 / 0.6); with so many rows the half ones do not matter
    expected = 0.1 * math.log(0.5 / 0.4) - 0.1 * math.log(0.5 / 0.6)
    assert math.isclose(
        stability_index({"a": 40_000_000, "b": 60_000_000}, {"a": 50_000_000, "b": 50_000_000}), expected, rel_tol=1e-6
    )
    assert stability_index({}, {"a": 3}) == 0
    assert 0 < stability_index({"a": 10}, {"a": 10, "b": 1}) < stability_index({"a": 10}, {"b": 10}) < 10


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60),
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60),
    st.integers(1, 50),
)
def test_added_and_removed_samples_are_counted_like_sets(
    tmp_path_factory: pytest.TempPathFactory,
    now: list[tuple[int, bool]],
    then: list[tuple[int, bool]],
    ids_at_once: int,
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    for name, rows in (("now", now), ("then", then)):
        ledger = [ledger_row(number, verdict="keep" if kept else "drop") for number, kept in rows]
        write_ledgers(folder / name, [ledger[::2], ledger[1::2]])
    found = sample_changes(folder / "now", folder / "then", ids_at_once=ids_at_once)
    ids_now, ids_then = {number for number, _ in now}, {number for number, _ in then}
    kept_now, kept_then = {number for number, kept in now if kept}, {number for number, kept in then if kept}
    assert (found.added, found.removed) == (len(ids_now - ids_then), len(ids_then - ids_now))
    assert found.common == len(ids_now & ids_then)
    assert (found.kept_added, found.kept_removed) == (len(kept_now - kept_then), len(kept_then - kept_now))
    fresh = {int(ledger_row(number)["sample_id"][:16], 16) for number in kept_now - kept_then}
    assert found.shown <= fresh
    assert len(found.shown) == min(48, len(fresh))


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    """Now and then: one more source, languages that the older ledger lacks, and an eighth of the samples removed."""
    then = [ledger_row(number, source="web", caption="a" * 30) for number in range(80)]
    now = [{**row, "language": "en"} for row in then[10:]]
    now += [ledger_row(number, source="<b>new</b>", caption="b" * 300, language="de") for number in range(80, 100)]
    now += [ledger_row(number, verdict="drop", reason="caption_pii") for number in range(100, 110)]
    write_ledgers(tmp_path / "now", [now[:50], now[50:]])
    write_ledgers(tmp_path / "then", [then], without=("language",))
    return tmp_path / "now", tmp_path / "then"


def drift_of(versions: tuple[Path, Path]) -> Any:
    now, then = versions
    return measure_drift(now, audit_dataset(now), then, audit_dataset(then))


def test_every_table_has_its_shares_then_and_now(versions: tuple[Path, Path]) -> None:
    drift = drift_of(versions)
    found = drift_to_json(drift)
    json.dumps(found)
    assert found["rows"] == {"then": 80, "now": 100}
    assert found["samples"] == {"added": 30, "removed": 10, "common": 70, "kept_added": 20, "kept_removed": 10}
    tables = found["tables"]
    assert tables["source"]["then"] == {"web": 80, "<b>new</b>": 0}
    assert tables["source"]["now"] == {"web": 70, "<b>new</b>": 20}
    assert tables["reason"]["now"] == {"caption_pii": 10, "none": 90}
    assert tables["verdict"]["then"] == {"keep": 80, "drop": 0}
    assert tables["language"]["then"] == {"none stated": 80, "en": 0, "de": 0}
    indices = [shift.index for shift in drift.shifts]
    assert indices == sorted(indices, reverse=True)
    assert drift.shifts[0].name == "language"
    assert {shift.name for shift in drift.shifts if shift.index == 0} >= {"format", "side", "license"}


def test_the_text_lists_only_the_tables_that_changed(versions: tuple[Path, Path]) -> None:
    text = drift_text(drift_of(versions))
    assert re.search(r"samples +30 added +10 removed +70 in both", text)
    assert re.search(r"web +100\.00% +77\.78% +-22\.22", text)
    assert "Format of the first image, share" not in text


def test_the_page_has_a_section_of_what_changed_and_escapes_it(versions: tuple[Path, Path], tmp_path: Path) -> None:
    now, _ = versions
    drift = drift_of(versions)
    write_audit_page(now, tmp_path / "page.html", audit_dataset(now), drift)
    page = (tmp_path / "page.html").read_text()
    assert "30 samples were added and 10 removed" in page
    assert "&lt;b&gt;new&lt;/b&gt;" in page
    assert "<b>new</b>" not in page
    added = page.split('<h2 id="New">')[1].split("<h2")[0]
    shown = set(re.findall(r"<code>([0-9a-f]{12})</code>", added))
    assert shown == {str(ledger_row(number)["sample_id"])[:12] for number in range(80, 100)}


def test_ids_that_are_no_digests_are_named(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "now", [[ledger_row(1, sample_id="x" * 64)]])
    with pytest.raises(DatasetError, match="found a sample_id that is not 64 digits"):
        sample_changes(tmp_path / "now", tmp_path / "now")


def test_a_ledger_of_another_kind_is_named(versions: tuple[Path, Path]) -> None:
    now, then = versions
    path = next((then / "ledger").iterdir())
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(DatasetError, match=f"{path.name}: not a ledger that can be read"):
        sample_changes(now, then)
