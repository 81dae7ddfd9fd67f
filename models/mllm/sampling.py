"""Samples tokens from scores: guidance, the grammar's mask, and one pass of temperature, top-k and top-p for each row.

The logits warpers of transformers apply one setting to all rows; rows here are at different levels of an image, each
with a setting of its own. Tests compare with them.

Letters: B rows, V ids of the scored range, K candidates in descending order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.mllm.config import LevelSampling
from models.mllm.grammar import Allowed

_NEVER = float("-inf")


@dataclass(frozen=True)
class Candidates:
    """Scores in descending order, -inf for those that are cut off, and the ids that they belong to."""

    scores_BK: Tensor
    ids_BK: Tensor


def scored_range(allowed: Sequence[Allowed]) -> range:
    """The smallest range that contains all allowed ids, so that no other scores are computed."""
    starts = [ids.ids.start for ids in allowed if len(ids.ids)] + [i for ids in allowed for i in ids.others]
    stops = [ids.ids.stop for ids in allowed if len(ids.ids)] + [i + 1 for ids in allowed for i in ids.others]
    return range(min(starts), max(stops))


def apply_guidance(conditional_BV: Tensor, unconditional_BV: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + scale (c - u).

    The published code mixes log-probabilities; raw scores differ from them by a constant per row, without effect.
    """
    return unconditional_BV + scale * (conditional_BV - unconditional_BV)


def mask_scores(scores_BV: Tensor, allowed: Sequence[Allowed], ids: range) -> Tensor:
    """Scores of the range `ids`, with -inf where a row's grammar forbids an id."""
    device = scores_BV.device
    start_B1 = torch.tensor([[row.ids.start - ids.start] for row in allowed], device=device)
    stop_B1 = torch.tensor([[row.ids.stop - ids.start] for row in allowed], device=device)
    offsets_V = torch.arange(len(ids), device=device)
    keep_BV = (offsets_V >= start_B1) & (offsets_V < stop_B1)
    others = [(index, other - ids.start) for index, row in enumerate(allowed) for other in row.others]
    if others:
        rows, columns = torch.tensor(others, device=device).unbind(1)
        keep_BV[rows, columns] = True
    return scores_BV.float().masked_fill(~keep_BV, _NEVER)


def select_candidates(scores_BV: Tensor, levels: Sequence[LevelSampling]) -> Candidates:
    """The ids that may be sampled in each row: scores divided by temperature, cut by top-k, then by top-p."""
    device, width = scores_BV.device, scores_BV.shape[1]
    temperature_B1 = torch.tensor([[level.temperature] for level in levels], device=device)
    top_k_B1 = torch.tensor([[level.top_k or width] for level in levels], device=device)
    top_p_B1 = torch.tensor([[level.top_p] for level in levels], device=device)
    num_candidates = min(width, max(level.top_k or width for level in levels))
    scores_BK, ids_BK = torch.topk(scores_BV / temperature_B1, num_candidates, dim=1)
    ranks_K = torch.arange(num_candidates, device=device)
    scores_BK = scores_BK.masked_fill(ranks_K >= top_k_B1, _NEVER)
    shares_BK = scores_BK.softmax(dim=1)
    before_BK = shares_BK.cumsum(dim=1) - shares_BK
    beyond_BK = (before_BK >= top_p_B1) & (ranks_K > 0) & (top_p_B1 < 1)
    return Candidates(scores_BK.masked_fill(beyond_BK, _NEVER), ids_BK)


def draw(candidates: Candidates, uniform_B: Tensor) -> Tensor:
    """Sample one id per row, by inverting the cumulative distribution at a number in [0, 1)."""
    cumulative_BK = candidates.scores_BK.softmax(dim=1).cumsum(dim=1)
    chosen_B1 = (cumulative_BK <= uniform_B[:, None] * cumulative_BK[:, -1:]).sum(dim=1, keepdim=True)
    last_B1 = (candidates.scores_BK > _NEVER).sum(dim=1, keepdim=True) - 1
    return candidates.ids_BK.gather(1, torch.minimum(chosen_B1, last_B1)).squeeze(1)
