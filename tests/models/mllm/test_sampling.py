"""Sampling of tokens: probabilities, masks, limits of each row, and those of transformers."""

import math
from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.mllm.config import LevelSampling
from models.mllm.grammar import Allowed
from models.mllm.sampling import Candidates, draw, scored_range, select_candidates

NEVER = float("-inf")


def _in_id_order(found: Candidates, width: int) -> Tensor:
    """Scores in the order of the ids, -inf where cut off."""
    return torch.full((len(found.ids_BK), width), float("-inf")).scatter(1, found.ids_BK, found.scores_BK)


def test_only_scores_of_allowed_ranges_are_computed() -> None:
    assert scored_range([Allowed(range(50, 60)), Allowed(range(70, 90))]) == range(50, 90)
    assert scored_range([Allowed(range(10), (20, 25)), Allowed(range(0), (11,))]) == range(26)


def test_sampling_follows_the_probabilities() -> None:
    scores = torch.tensor([[0.0, math.log(2), NEVER, math.log(5)]])
    found = select_candidates(scores, [LevelSampling()])
    uniform = (torch.arange(800) + 0.5) / 800
    drawn = Counter(draw(Candidates(found.scores_BK.expand(800, -1), found.ids_BK.expand(800, -1)), uniform).tolist())
    assert drawn == {3: 500, 1: 200, 0: 100}


def test_a_random_number_close_to_1_never_gives_a_forbidden_token() -> None:
    scores = torch.tensor([[0.1, NEVER, 0.3, NEVER]])
    found = select_candidates(scores, [LevelSampling()])
    assert draw(found, torch.tensor([1.0])).item() == 0


def test_each_row_has_its_own_limits() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, -1)
    levels = [
        LevelSampling(top_k=1),
        LevelSampling(),
        LevelSampling(top_p=0.7),
        LevelSampling(temperature=2.0, top_k=3),
    ]
    ours = _in_id_order(select_candidates(scores, levels), 4)
    assert torch.isfinite(ours).sum(dim=1).tolist() == [1, 4, 2, 3]  # 64 % and 88 % in the best one and two
    assert ours[3, 3] == 2.0


LEVELS = st.builds(
    LevelSampling,
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 30),
    top_p=st.just(1.0) | st.floats(0.05, 0.99),
)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.lists(LEVELS, min_size=1, max_size=4))
def test_each_row_keeps_what_the_warpers_of_transformers_keep(seed: int, levels: list[LevelSampling]) -> None:
    scores = torch.randn(len(levels), 25, generator=torch.Generator().manual_seed(seed))
    ours = _in_id_order(select_candidates(scores, levels), 25)
    for row, level in enumerate(levels):
        warpers = LogitsProcessorList([TemperatureLogitsWarper(level.temperature)])
        if level.top_k:
            warpers.append(TopKLogitsWarper(level.top_k))
        for top_p in (level.top_p, level.top_p + 1e-6, level.top_p - 1e-6):  # of a sum within rounding, either is right
            nucleus = [TopPLogitsWarper(top_p)] if top_p < 1 else []
            theirs = LogitsProcessorList([*warpers, *nucleus])(
                torch.zeros(1, 0, dtype=torch.long), scores[row : row + 1]
            )[0]
            if torch.equal(torch.isfinite(theirs), torch.isfinite(ours[row])):
                break
        torch.testing.assert_close(ours[row], theirs)
