"""A whole as one bar of its parts."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.share_bar import Part, draw_share_bar


def test_parts_fill_the_bar_and_are_said_in_words() -> None:
    parts = [Part(name="keep", count=6, look=1), Part(name="drop", count=0, look=2), Part(name="bad", count=2, look=3)]
    root = ET.fromstring(draw_share_bar(parts, name="curated"))
    boxes = [rect.attrib for rect in root.iter("rect")]
    assert [(box["x"], box["width"]) for box in boxes] == [("0.000%", "75.000%"), ("75.000%", "25.000%")]
    assert root.attrib["aria-label"] == "curated: 6 keep, 2 bad"


def test_an_empty_whole_is_an_empty_bar() -> None:
    assert ET.fromstring(draw_share_bar([], name="x")).attrib["aria-label"] == "x: nothing"
