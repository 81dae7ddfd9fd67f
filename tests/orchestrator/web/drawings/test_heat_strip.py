"""Shards as one small picture."""

import xml.etree.ElementTree as ET
from itertools import pairwise

from orchestrator.web.drawings.heat_strip import MAX_CELLS, ShardPoint, draw_heat_strip, shard_cells, strip_text

HUNDRED_THOUSAND = [
    ShardPoint(
        index=index,
        seconds=None if index >= 99_000 else 60.0 if index == 41_234 else 1.0,
        attempts=2 if index == 5 else 1,
        num_quarantined=3 if index == 70_000 else 0,
    )
    for index in range(100_000)
]


def test_no_shard_is_lost_in_the_cells() -> None:
    cells = shard_cells(HUNDRED_THOUSAND, 100_000)
    assert len(cells) <= MAX_CELLS
    assert (cells[0].first, cells[-1].last) == (0, 99_999)
    assert all(b.first == a.last + 1 for a, b in pairwise(cells))
    assert sum(cell.num_done for cell in cells) == 99_000
    assert [cell.slowest for cell in cells if cell.slowest_s == 60.0] == [41_234]


def test_the_picture_stays_small_and_says_what_it_shows() -> None:
    picture = draw_heat_strip(shard_cells(HUNDRED_THOUSAND, 100_000), href="/s?from={first}&to={last}")
    assert len(picture) < 80_000
    root = ET.fromstring(picture)
    assert root.attrib["aria-label"] == (
        "Shards: 99,000 of 100,000 recorded, 1 retried, 3 items quarantined, slowest 60.0 s (shard 41234)"
    )


def test_a_single_slow_quarantined_or_retried_shard_is_seen_and_leads_to_its_neighbours() -> None:
    root = ET.fromstring(draw_heat_strip(shard_cells(HUNDRED_THOUSAND, 100_000), href="/s?from={first}&to={last}"))

    def linked(mark: str) -> list[str]:
        return [a.attrib["href"] for a in root if any(mark in rect.attrib.get("class", "") for rect in a)]

    (slow,) = linked("shade-4") or linked("shade-1")
    for address, shard in ((slow, 41_234), (*linked("retried"), 5), (*linked("quarantined"), 70_000)):
        first, last = (int(part.partition("=")[2]) for part in str(address).partition("?")[2].split("&"))
        assert first <= shard <= last
    assert len(linked("missing")) == 3


def test_few_shards_have_a_cell_each_and_none_is_no_error() -> None:
    assert len(shard_cells([ShardPoint(index=0, seconds=1.0)], 3)) == 3
    assert shard_cells([], 0) == ()
    assert strip_text(()) == "0 of 0 recorded, 0 retried, 0 items quarantined"
    assert "<svg" in draw_heat_strip(())


def test_a_point_beyond_the_map_changes_nothing() -> None:
    assert shard_cells([ShardPoint(index=9, seconds=1.0)], 3) == shard_cells([], 3)
