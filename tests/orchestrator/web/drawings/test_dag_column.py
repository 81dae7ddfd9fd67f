"""The graph in one column."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.dag import DagStage
from orchestrator.web.drawings.dag_column import draw_dag_column, lanes_of
from tests.orchestrator.web.drawings.test_dag_layout import QUICKSTART


def test_stages_stand_below_each_other_within_a_narrow_window() -> None:
    stages = [DagStage(stage_id=name, state="WAITING", inputs=tuple(inputs)) for name, inputs in QUICKSTART.items()]
    root = ET.fromstring(draw_dag_column(stages))
    assert float(root.attrib["width"]) <= 358  # what a phone of 390 px leaves beside the margins
    names = [text.text for text in root.iter("text") if text.attrib["class"] == "name"]
    assert names == list(QUICKSTART)


def test_edges_beside_each_other_have_lanes_of_their_own() -> None:
    edges = [(0, 2), (1, 4), (2, 5), (0, 6)]
    lanes = lanes_of(edges)
    assert lanes[(0, 2)] != lanes[(1, 4)]
    assert lanes[(0, 2)] == lanes[(2, 5)] or lanes[(1, 4)] != lanes[(2, 5)]
    assert lanes[(0, 6)] not in {lanes[(0, 2)], lanes[(1, 4)], lanes[(2, 5)]}


def test_no_stages_no_lanes() -> None:
    assert lanes_of([]) == {}
    assert "<svg" in draw_dag_column([])
