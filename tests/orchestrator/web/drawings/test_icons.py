"""Icons are decoration, or say what they mean."""

import xml.etree.ElementTree as ET

import pytest

from orchestrator.web.drawings.icons import ICONS, icon


@pytest.mark.parametrize("name", ICONS)
def test_each_icon_is_a_picture_of_strokes(name: str) -> None:
    root = ET.fromstring(icon(name))
    assert root.attrib["aria-hidden"] == "true"
    assert root[0].attrib["d"].startswith("M")


def test_an_icon_with_a_label_is_read_aloud() -> None:
    root = ET.fromstring(icon("failed", label="Failed"))
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "Failed")
    assert "aria-hidden" not in root.attrib
