"""Attention by documents next to a plain one that computes every score and masks."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mllm.attention import Documents, _by_kernel, find_documents, packed_attention

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


def by_pieces(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    bounds_k: Tensor,
    longest: int,
    longest_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What the kernel of CUDA says that it computes: [tokens, heads, width], attention inside of each piece."""
    assert (window_size, enable_gqa, bounds is bounds_k, longest == longest_k) == ((-1, 0), True, True, True)
    assert bounds.dtype == torch.int32
    pieces = []
    for start, stop in pairwise(bounds.tolist()):
        assert 0 < stop - start <= longest
        parts = (part[None, start:stop].transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scale, enable_gqa=True)
        pieces.append(mixed.transpose(1, 2)[0])
    return torch.cat(pieces)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_the_kernel_of_cuda_is_given_the_documents(rows: list[list[int]]) -> None:
    segments_BT = torch.tensor(rows)
    torch.manual_seed(0)
    shapes = [(len(rows), heads, segments_BT.shape[1], WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    found = _by_kernel(*inputs, find_documents(segments_BT), WIDTH**-0.5, by_pieces)
    torch.testing.assert_close(found, plain(*inputs, segments_BT))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_the_kernel_of_cuda_agrees(rows: list[list[int]]) -> None:
    segments_BT = torch.tensor(rows, device="cuda")
    shapes = [(len(rows), heads, segments_BT.shape[1], 64) for heads in (HEADS, GROUPS, GROUPS)]
    inputs = [torch.randn(shape, dtype=torch.bfloat16, device="cuda") for shape in shapes]
    documents = find_documents(segments_BT)
    found, _ = packed_attention(nn.Identity(), *inputs, documents, scaling=WIDTH**-0.5)
    expected, _ = packed_attention(nn.Identity(), *inputs, Documents(documents.spans), scaling=WIDTH**-0.5)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_documents_are_read_off_the_segments() -> None:
    segments_BT = torch.tensor([[3, 3, 0, 1], [2, 2, 2, 2], [0, 0, 0, 0]])
    assert find_documents(segments_BT) == Documents((((0, 2), (3, 4)), ((0, 4),), ()))
