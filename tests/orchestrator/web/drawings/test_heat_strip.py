"""Shards as one small picture."""

import xml.etree.ElementTree as ET
from array import array
from itertools import pairwise

from orchestrator.web.drawings.heat_strip import (
    MAX_CELLS,
    MISSING,
    ShardColumns,
    draw_heat_strip,
    shard_cells,
    strip_text,
)


def columns(num_shards: int, seconds: float = MISSING) -> ShardColumns:
    return ShardColumns(
        seconds=array("f", [seconds]) * num_shards,
        tries=array("H", [1]) * num_shards,
        quarantined=array("L", [0]) * num_shards,
        existed=bytearray(num_shards),
    )


def hundred_thousand() -> ShardColumns:
    found = columns(100_000, 1.0)
    found.seconds[99_000:] = array("f", [MISSING]) * 1000
    found.seconds[41_234], found.tries[5], found.quarantined[70_000] = 60.0, 2, 3
    return found


HUNDRED_THOUSAND = shard_cells(hundred_thousand())


def test_no_shard_is_lost_in_the_cells() -> None:
    cells = HUNDRED_THOUSAND
    assert len(cells) <= MAX_CELLS
    assert (cells[0].first, cells[-1].last) == (0, 99_999)
    assert all(b.first == a.last + 1 for a, b in pairwise(cells))
    assert sum(cell.num_done for cell in cells) == 99_000
    assert [cell.slowest for cell in cells if cell.slowest_s == 60.0] == [41_234]


def test_the_picture_stays_small_and_says_what_it_shows() -> None:
    picture = draw_heat_strip(HUNDRED_THOUSAND, href="/s?from={first}&to={last}")
    assert len(picture) < 80_000
    root = ET.fromstring(picture)
    assert root.attrib["aria-label"] == (
        "Shards: 99,000 of 100,000 recorded, 1 retried, 3 items quarantined, slowest 60.0 s (shard 41,234)"
    )


def test_a_single_slow_quarantined_or_retried_shard_is_seen_and_leads_to_its_neighbours() -> None:
    root = ET.fromstring(draw_heat_strip(HUNDRED_THOUSAND, href="/s?from={first}&to={last}"))

    def linked(mark: str) -> list[str]:
        return [a.attrib["href"] for a in root if any(mark in rect.attrib.get("class", "") for rect in a)]

    (slow,) = linked("shade-4") or linked("shade-1")
    for address, shard in ((slow, 41_234), (*linked("retried"), 5), (*linked("quarantined"), 70_000)):
        first, last = (int(part.partition("=")[2]) for part in str(address).partition("?")[2].split("&"))
        assert first <= shard <= last
    assert len(linked("missing")) == 3


def test_few_shards_have_a_cell_each_and_none_is_no_error() -> None:
    assert len(shard_cells(columns(3, 1.0))) == 3
    assert shard_cells(columns(0)) == ()
    assert strip_text(()) == "0 of 0 recorded, 0 retried, 0 items quarantined"
    assert "<svg" in draw_heat_strip(())


def test_a_shard_that_existed_is_recorded_and_has_no_time() -> None:
    found = columns(3)
    found.existed[1] = 1
    cells = shard_cells(found)
    assert [(cell.num_done, cell.slowest) for cell in cells] == [(0, None), (1, None), (0, None)]
    assert strip_text(cells) == "1 of 3 recorded, 0 retried, 0 items quarantined"
