"""The graph of a run as a picture."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import pytest

from orchestrator.web.drawings.dag import HEIGHT_PX, WIDTH_PX, DagStage, draw_dag
from tests.orchestrator.web.drawings.test_dag_layout import QUICKSTART

STAGES = [
    DagStage(stage_id=name, state="RUNNING", inputs=tuple(inputs), href=f"/runs/r/{name}", share=0.5, why="never made")
    for name, inputs in QUICKSTART.items()
]


def boxes(picture: str) -> dict[str, tuple[float, float]]:
    places = {}
    for stage in ET.fromstring(picture).iter("a"):
        x, y = re.findall(r"[\d.]+", stage.attrib["transform"])
        places[stage.attrib["href"].rpartition("/")[2]] = (float(x), float(y))
    return places


@pytest.mark.parametrize("columns", [2, 3, 6, 20])
def test_no_two_boxes_overlap_and_all_are_inside(columns: int) -> None:
    picture = draw_dag(STAGES, columns=columns)
    root, places = ET.fromstring(picture), boxes(picture)
    assert set(places) == set(QUICKSTART)
    for (x0, y0), (x1, y1) in combinations(places.values(), 2):
        assert abs(x0 - x1) >= WIDTH_PX or abs(y0 - y1) >= HEIGHT_PX
    for x, y in places.values():
        assert 0 <= x <= float(root.attrib["width"]) - WIDTH_PX
        assert 0 <= y <= float(root.attrib["height"]) - HEIGHT_PX


def test_a_long_recipe_is_folded_into_bands() -> None:
    wide, folded = (ET.fromstring(draw_dag(STAGES, columns=columns)) for columns in (20, 4))
    assert float(folded.attrib["width"]) < float(wide.attrib["width"]) / 2
    tops = boxes(draw_dag(STAGES, columns=4))
    assert tops["tokenizer"][1] > tops["shapes"][1] + HEIGHT_PX


def test_every_edge_is_tied_to_both_of_its_stages() -> None:
    paths = [path for path in ET.fromstring(draw_dag(STAGES)).iter("path") if path.attrib["class"] == "edge"]
    ties = {path.attrib["data-tie"] for path in paths}
    assert "stage:tokens stage:decoder" in ties
    assert "stage:curated stage:evaluated" not in ties


def test_states_are_told_apart_and_said_in_words() -> None:
    stages = [
        DagStage(stage_id="a", state="REUSED", why="made by run r0"),
        DagStage(stage_id="b", state="RECOVERED", inputs=("a",)),
        DagStage(stage_id="c", state="COMMITTED", inputs=("b",), note="2 min"),
    ]
    drawn = [group for group in ET.fromstring(draw_dag(stages)) if group.attrib["class"].startswith("stage")]
    assert [group.attrib["class"].split()[1] for group in drawn] == ["tone-reused", "tone-recovered", "tone-made"]
    assert [group[0].text for group in drawn] == ["a: reused; made by run r0", "b: recovered", "c: made; 2 min"]


def test_what_is_done_of_a_running_stage_is_a_line_of_that_length() -> None:
    widths = []
    for share in (0.0, 0.5, 1.0, 3.0):
        picture = ET.fromstring(draw_dag([DagStage(stage_id="a", state="RUNNING", share=share)]))
        widths += [float(rect.attrib["width"]) for rect in picture.iter("rect") if rect.attrib["class"] == "done"]
    assert widths == sorted(widths)
    assert widths[2] == widths[3]
    assert all(b > a for a, b in pairwise(widths[:3]))


def test_a_run_without_stages_is_an_empty_picture() -> None:
    assert float(ET.fromstring(draw_dag([])).attrib["height"]) > 0
