"""Names of scores and bounds that make no sense are refused."""

from collections.abc import Mapping

import pytest

from data_pipelines.curation.config import decode_limits
from data_pipelines.images.facts import measure_image
from data_pipelines.scoring.bounds import MEASURED_SCORES, ScoreBounds, check_score_name
from tests.data_pipelines.curation.curated import CONFIG, drawn, encoded


@pytest.mark.parametrize("name", ["row", "embedding", "entropy", "Fit", "", "a b", "1st"])
def test_names_that_others_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name: "):
        check_score_name(name)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [({}, "found no bound, expected at_least or at_most"), ({"at_least": 2, "at_most": 1}, "at_least 2 is over at_mo")],
)
def test_bounds_that_keep_nothing_or_all_are_refused(bounds: Mapping[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreBounds(**bounds)


def test_scores_cannot_take_the_names_of_measured_ones() -> None:
    facts = measure_image(encoded(drawn(0)), decode_limits(CONFIG))
    assert set(MEASURED_SCORES) == set(getattr(facts, "scores", ()))  # a Reject has none
