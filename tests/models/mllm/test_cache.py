"""Keys and values of rows that grow independently."""

import torch
from torch import Tensor

from models.mllm.cache import RowCache
from tests.models.mllm.conftest import make_config

CPU = torch.device("cpu")


def keys(batch: int, tokens: int, first: float) -> Tensor:
    """Keys [B, N, T, H] whose values count up from `first` by token."""
    return (first + torch.arange(float(tokens))).view(1, 1, tokens, 1).expand(batch, 2, tokens, 8)


def test_rows_of_different_length_grow_at_their_own_positions() -> None:
    cache = RowCache(make_config().text, rows=2, slots=8, dtype=torch.float32, device=CPU)
    cache.prefill(torch.tensor([0, 1]))
    seen, _ = cache.update(keys(2, 3, 10), keys(2, 3, 10), 0)
    assert seen.shape == (2, 2, 3, 8)  # a prefill sees only its own tokens
    cache.decode(torch.tensor([[3], [1]]), visible=4)  # the second row has one token; the others were padding
    seen, values = cache.update(keys(2, 1, 99), keys(2, 1, 99), 0)
    assert seen[:, 0, :, 0].tolist() == [[10.0, 11.0, 12.0, 99.0], [10.0, 99.0, 12.0, 0.0]]
    assert torch.equal(seen, values)


def test_a_row_that_is_started_again_overwrites_its_slots() -> None:
    cache = RowCache(make_config().text, rows=2, slots=4, dtype=torch.float32, device=CPU)
    cache.prefill(torch.tensor([0, 1]))
    cache.update(keys(2, 2, 1), keys(2, 2, 1), 1)
    cache.prefill(torch.tensor([1]))
    cache.update(keys(1, 2, 50), keys(1, 2, 50), 1)
    cache.decode(torch.tensor([[2], [2]]), visible=3)
    seen, _ = cache.update(keys(2, 1, 7), keys(2, 1, 7), 1)
    assert seen[:, 1, :, 0].tolist() == [[1.0, 2.0, 7.0], [50.0, 51.0, 7.0]]
