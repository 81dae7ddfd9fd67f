"""Each state has a look, and no look is told apart by colour alone."""

from pathlib import Path

import pytest

import orchestrator.web
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import NOT_RUN, REUSED, SKIPPED, TAKEN_DOWN, WAITING
from orchestrator.web.drawings.icons import ICONS
from orchestrator.web.drawings.states import tone_names, tone_of

TOKENS = (Path(orchestrator.web.__file__).parent / "static/css/tokens.css").read_text()
STATES = [*RunState, *AttemptState, WAITING, REUSED, SKIPPED, NOT_RUN, TAKEN_DOWN]


@pytest.mark.parametrize("state", STATES)
def test_each_state_of_the_kernel_has_a_look_of_its_own_words(state: str) -> None:
    assert tone_of(state).label != tone_of("no such state").label
    assert tone_of(state).name in tone_names()


def test_each_tone_has_an_icon_that_no_other_has_and_a_colour_in_light_and_dark() -> None:
    shapes = [ICONS[name] for name in tone_names()]
    assert len(set(shapes)) == len(shapes)
    for name in tone_names():
        assert f".tone-{name} " in TOKENS
        assert TOKENS.count(f"--{name}:") == 3  # light, dark by preference, dark by choice


def test_a_state_that_is_not_known_is_shown_as_it_is_called() -> None:
    assert tone_of("HALF_DONE").label == "Half done"
