"""SVG elements escape what they are given, and text is cut to its room."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.svg import element, fit_text, link, percent, text_width, title


def test_text_and_attributes_cannot_leave_their_place() -> None:
    hostile = '"><script>alert(1)</script>&'
    picture = element("svg", {"aria-label": hostile}, title(hostile), hostile)
    root = ET.fromstring(picture)
    assert root.attrib["aria-label"] == hostile
    assert root[0].text == hostile
    assert len(root) == 1


def test_what_is_drawn_once_is_not_escaped_twice() -> None:
    assert element("g", {}, element("text", {}, "a < b")) == "<g><text>a &lt; b</text></g>"


def test_a_link_without_an_address_is_a_group() -> None:
    assert link("", "x", class_="a", data_tie="stage:s") == '<g class="a" data-tie="stage:s">x</g>'


def test_text_is_cut_to_the_width_with_an_ellipsis() -> None:
    assert fit_text("short", 100, 12) == "short"
    cut = fit_text("a very long name of a stage", 80, 12)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 80
    assert fit_text("name", 1, 12) == ""


def test_a_share_stays_within_the_picture() -> None:
    assert (percent(1, 4), percent(9, 4), percent(-1, 4), percent(1, 0)) == ("25.000%", "100.000%", "0.000%", "0.000%")
