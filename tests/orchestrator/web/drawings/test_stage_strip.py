"""The strip of a run's stages."""

import xml.etree.ElementTree as ET

from orchestrator.web.drawings.stage_strip import MAX_BLOCKS, StripStage, draw_stage_strip, summary_text


def test_a_block_per_stage_in_the_tone_of_its_state() -> None:
    stages = [StripStage(stage_id="a", state="REUSED"), StripStage(stage_id="<b>", state="FAILED")]
    root = ET.fromstring(draw_stage_strip(stages, name="quickstart"))
    assert [block.attrib["class"] for block in root] == ["tone-reused", "tone-failed"]
    assert root[1][0].text == "<b>: failed"
    assert root.attrib["aria-label"] == "quickstart: 1 reused, 1 failed"


def test_a_running_stage_is_filled_as_far_as_it_got() -> None:
    def height(share: float) -> float:
        drawn = draw_stage_strip([StripStage(stage_id="a", state="RUNNING", share=share)], name="r")
        (done,) = ET.fromstring(drawn)[0].iterfind("rect[@class='done']")
        return float(done.attrib["height"])

    assert height(0.25) < height(0.5) < height(1.0) == height(7.0)


def test_of_hundreds_of_stages_the_rest_is_counted() -> None:
    stages = [StripStage(stage_id=f"s{number}", state="COMMITTED") for number in range(MAX_BLOCKS + 7)]
    assert draw_stage_strip(stages, name="r").endswith('<span class="more">+7</span>')
    assert summary_text(stages) == f"{MAX_BLOCKS + 7} made"
    assert summary_text([]) == "no stages"
