"""Curves of the size of a word."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.sparkline import MAX_POINTS, draw_sparkline, thinned


def test_a_falling_loss_falls() -> None:
    root = ET.fromstring(draw_sparkline([4.0, 2.0, 1.0], name="loss"))
    heights = [float(point.split()[1]) for point in root[0].attrib["d"].lstrip("M").split("L")]
    assert heights == sorted(heights)  # down the page
    assert root.attrib["aria-label"] == "loss: from 4 to 1, lowest 1, highest 4"


def test_what_is_no_number_is_a_gap() -> None:
    root = ET.fromstring(draw_sparkline([1.0, float("nan"), 2.0, float("inf"), 3.0], name="loss"))
    assert root[0].attrib["d"].count("M") == 3
    assert draw_sparkline([], name="loss") == draw_sparkline([float("nan")], name="loss") == ""


def test_a_long_curve_keeps_its_ends() -> None:
    kept = thinned([float(number) for number in range(10_000)])
    assert (len(kept), kept[0], kept[-1]) == (MAX_POINTS, 0.0, 9999.0)
