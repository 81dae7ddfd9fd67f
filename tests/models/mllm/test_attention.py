"""Attention by documents next to a plain one that computes every score and masks."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.mllm.attention import Documents, find_documents, packed_attention

HEADS, GROUPS, WIDTH = 4, 2, 8


def plain(query: Tensor, key: Tensor, value: Tensor, segments_BT: Tensor) -> Tensor:
    """[B,T,N,H] by the definition; padding gets zeros."""
    key, value = (part.repeat_interleave(HEADS // GROUPS, dim=1) for part in (key, value))
    tokens = segments_BT.shape[1]
    allowed_BTS = (segments_BT[:, :, None] == segments_BT[:, None]) & torch.ones(tokens, tokens).tril().bool()
    scores = (query @ key.transpose(2, 3) / math.sqrt(WIDTH)).masked_fill(~allowed_BTS[:, None], -math.inf)
    seen = (scores.softmax(-1) @ value).transpose(1, 2)
    return seen * (segments_BT > 0)[..., None, None]


ROWS = {
    "one document": [[1] * 9],
    "documents": [[1, 1, 1, 2, 3, 3, 3, 3, 3]],
    "padding at the end": [[1, 1, 2, 2, 2, 0, 0, 0, 0]],
    "padding before and between": [[0, 0, 1, 1, 0, 2, 2, 2, 0]],
    "rows cut alike": [[1, 1, 1, 2, 2, 0]] * 3,
    "rows cut differently": [[1, 1, 1, 2, 2, 0], [1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_each_document_sees_its_own_past(rows: list[list[int]]) -> None:
    segments_BT = torch.tensor(rows)
    torch.manual_seed(0)
    shapes = [(len(rows), heads, segments_BT.shape[1], WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    expected = plain(*inputs, segments_BT)
    found, _ = packed_attention(nn.Identity(), *inputs, find_documents(segments_BT), scaling=WIDTH**-0.5)
    torch.testing.assert_close(found, expected)
    wanted = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((output * wanted).sum(), inputs, retain_graph=True) for output in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_documents_are_read_off_the_segments() -> None:
    segments_BT = torch.tensor([[3, 3, 0, 1], [2, 2, 2, 2], [0, 0, 0, 0]])
    assert find_documents(segments_BT) == Documents((((0, 2), (3, 4)), ((0, 4),), ()))
