"""Attempts over time."""

import xml.etree.ElementTree as ET
from itertools import pairwise

from orchestrator.web.drawings.gantt import (
    WAIT_KINDS,
    Gantt,
    GanttBar,
    GanttMark,
    GanttRow,
    GanttWait,
    draw_gantt,
    hatchings,
)

ROW = GanttRow(
    stage_id="tokens",
    state="RUNNING",
    href="/runs/r/tokens",
    bars=(
        GanttBar(start_s=1000, end_s=1100, state="LOST", text="attempt 1: lost after 100 s", tie="attempt:a1"),
        GanttBar(start_s=1150, end_s=None, state="RUNNING", text="attempt 2: running", tie="attempt:a2", href="/a2"),
    ),
    waits=(GanttWait(start_s=1100, end_s=1150, kind="capacity", text="waited 50 s for GPUs"),),
    marks=(GanttMark(time_s=1100, state="LOST", text="node n1 lost"),),
)


def drawn(row: GanttRow = ROW, *, end_s: float = 1200) -> ET.Element:
    return ET.fromstring(draw_gantt(Gantt(start_s=1000, end_s=end_s, rows=(row,))))


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [found for found in root.iter() if name in found.attrib.get("class", "").split()]


def test_bars_stand_where_their_times_are() -> None:
    first, second = of_class(drawn(), "bar")
    assert (first.attrib["x"], first.attrib["width"]) == ("0.000%", "50.000%")
    assert (second.attrib["x"], second.attrib["width"]) == ("75.000%", "25.000%")  # to the end of the picture


def test_waiting_is_hatched_by_its_kind_and_each_kind_has_a_pattern() -> None:
    (wait,) = of_class(drawn(), "wait")
    assert wait.attrib["fill"] == "url(#wait-capacity)"
    patterns = {pattern.attrib["id"]: pattern[0].attrib["d"] for pattern in ET.fromstring(hatchings()).iter("pattern")}
    assert set(patterns) == {f"wait-{kind}" for kind in WAIT_KINDS}
    assert len(set(patterns.values())) == len(WAIT_KINDS)


def test_a_lost_node_is_a_mark_with_its_words() -> None:
    (mark,) = of_class(drawn(), "moment")
    assert mark[0].text == "node n1 lost"
    (line,) = mark.iter("line")
    assert line.attrib["x1"] == "50.000%"


def test_what_belongs_to_an_attempt_carries_its_tie_and_the_row_is_read_aloud() -> None:
    root = drawn()
    assert [bar.attrib["data-tie"] for bar in of_class(root, "attempt")] == ["attempt:a1", "attempt:a2"]
    (lane,) = of_class(root, "lane")
    assert lane.attrib["aria-label"] == (
        "tokens: attempt 1: lost after 100 s; attempt 2: running; waited 50 s for GPUs; node n1 lost"
    )


def test_the_axis_has_few_round_times_at_any_length() -> None:
    for length_s in (3, 59, 3600, 86400, 30 * 86400, 400 * 86400):
        ticks = of_class(drawn(end_s=1000 + length_s), "tick")
        assert 1 <= len(ticks) <= 6, length_s
        places = [float(tick.attrib["x"].rstrip("%")) for tick in ticks]
        assert all(b - a > 10 for a, b in pairwise(places))


def test_a_row_without_attempts_says_so() -> None:
    root = drawn(GanttRow(stage_id="later", state="WAITING"))
    (lane,) = of_class(root, "lane")
    assert lane.attrib["aria-label"] == "later: nothing yet"
