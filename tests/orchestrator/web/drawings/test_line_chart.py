"""Curves over steps."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.line_chart import Curve, draw_line_chart

NAN = float("nan")


def test_curves_share_their_axes_and_have_looks_of_their_own() -> None:
    curves = [
        Curve(name="train", steps=(0, 10), values=(4.0, 2.0)),
        Curve(name="validation", steps=(0, 5), values=(4.0, 0.0)),
    ]
    root = ET.fromstring(draw_line_chart(curves, name="Loss"))
    train, validation = (path for path in root if "curve" in path.attrib["class"])
    assert train.attrib["d"] == "M0.0 8.0L600.0 100.0"
    assert validation.attrib["d"] == "M0.0 8.0L300.0 192.0"
    assert train.attrib["class"] != validation.attrib["class"]
    assert root.attrib["aria-label"] == "Loss: steps 0 to 10, lowest 0, highest 4"


def test_a_spike_to_no_number_is_a_gap_and_no_numbers_are_no_picture() -> None:
    root = ET.fromstring(draw_line_chart([Curve(name="a", steps=(0, 1, 2), values=(1.0, NAN, 2.0))], name="Loss"))
    assert [path.attrib["d"].count("M") for path in root if "curve" in path.attrib["class"]] == [2]
    assert draw_line_chart([Curve(name="a", steps=(0,), values=(NAN,))], name="Loss") == ""
