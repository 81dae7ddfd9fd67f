"""Attention of packed rows: causal inside a document, none across documents.

Packed rows are computed document by document: the work grows with the squares of the documents' lengths, not with that
of the row's, and no mask is stored. On CUDA one kernel does it for all documents, elsewhere one call each. Steps over a
cache use a mask. Workers of a sequence group compute some heads of whole rows each.
Letters: B batch, N heads, T tokens (queries), S keys, H width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.mllm.sequence_parallel import SequenceGroup, heads_of_all_tokens, tokens_of_all_heads
from models.transfer import to_device

KERNEL_DTYPES = (torch.bfloat16, torch.float16)  # of flash attention
PACKED_ATTENTION = "packed_documents"  # name under which transformers finds `packed_attention`


@dataclass(frozen=True)
class Documents:
    """Start and end (exclusive) of each document, by row; all other tokens are padding."""

    spans: tuple[tuple[tuple[int, int], ...], ...]
    # int32: where each run of a document or of padding starts, counted through all rows, and the end of the last one.
    bounds: Tensor | None = field(default=None, compare=False)
    longest_run: int = field(default=0, compare=False)
    real_BT: Tensor | None = field(default=None, compare=False)  # bool: no padding; None: there is none
    group: SequenceGroup | None = field(default=None, compare=False)  # whose workers hold a part of each row

    def to(self, device: torch.device | str) -> "Documents":
        bounds, real_BT = (part if part is None else to_device(part, device) for part in (self.bounds, self.real_BT))
        return replace(self, bounds=bounds, real_BT=real_BT)

    def shared_by(self, group: SequenceGroup) -> "Documents":
        """For attention whose inputs are the parts of the rows that the workers of a group hold."""
        return replace(self, group=group)


def attention_inputs(segments_BT: Tensor) -> dict[str, Documents | Tensor]:
    """The attention masks for the decoder, by kind of layer. Segments number the documents of a row; 0 is padding.

    The tokens of one document must be consecutive, as packing makes them.
    """
    return {"full_attention": find_documents(segments_BT)}


def find_documents(segments_BT: Tensor) -> Documents:
    """The runs of equal segments other than 0."""
    rows, bounds = [], [0]
    for segments_T in segments_BT.cpu():
        values, lengths = torch.unique_consecutive(segments_T, return_counts=True)
        stops = lengths.cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        found = zip(values.tolist(), starts, stops, strict=True)
        rows.append(tuple((start, stop) for value, start, stop in found if value))
        first = bounds[-1]
        bounds += [first + stop for stop in stops]
    longest = max((stop - start for start, stop in pairwise(bounds)), default=0)
    made = torch.tensor(bounds, dtype=torch.int32)
    real_BT = segments_BT > 0 if (segments_BT.cpu() == 0).any() else None
    return Documents(tuple(rows), to_device(made, segments_BT.device), longest, real_BT)


def cache_mask(positions_BT: Tensor, length: int) -> Tensor:
    """Bool [B, 1, T, S] for queries at given positions over a cache whose slots are positions."""
    slots_S = torch.arange(length, device=positions_BT.device)
    return (slots_S <= positions_BT[:, :, None])[:, None]


def packed_attention(
    module: nn.Module,
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    attention_mask: Documents | Tensor,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention [B,T,N,H] with the signature that transformers' layers call. Padding gets zeros.

    `attention_mask` is a mask for steps over a cache, or the documents of packed rows.
    """
    if not isinstance(attention_mask, Documents):
        return sdpa_attention_forward(module, query_BNTH, key_BNSH, value_BNSH, attention_mask, scaling=scaling, **more)
    group = attention_mask.group
    if group is None:
        return _of_documents(query_BNTH, key_BNSH, value_BNSH, attention_mask, scaling), None
    dtype = _compute_dtype(query_BNTH)
    query, key, value = (part.to(dtype) for part in (query_BNTH, key_BNSH, value_BNSH))
    mixed_BTNH = _of_documents(*heads_of_all_tokens(query, key, value, group), attention_mask, scaling)
    return tokens_of_all_heads(mixed_BTNH, group), None


def _of_documents(
    query_BNTH: Tensor, key_BNSH: Tensor, value_BNSH: Tensor, documents: Documents, scaling: float | None
) -> Tensor:
    if _has_kernel(query_BNTH, documents):
        return _by_kernel(query_BNTH, key_BNSH, value_BNSH, documents, scaling)
    spans = documents.spans
    if len(set(spans)) == 1:  # rows with the same documents are computed together
        return _by_document(query_BNTH, key_BNSH, value_BNSH, spans[0], scaling)
    rows = zip(query_BNTH.split(1), key_BNSH.split(1), value_BNSH.split(1), spans, strict=True)
    return torch.cat([_by_document(*row, scaling) for row in rows])


def _has_kernel(query_BNTH: Tensor, documents: Documents) -> bool:
    return query_BNTH.is_cuda and documents.bounds is not None and _compute_dtype(query_BNTH) in KERNEL_DTYPES


def _compute_dtype(query_BNTH: Tensor) -> torch.dtype:
    kind = query_BNTH.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query_BNTH.dtype


def _by_kernel(
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    documents: Documents,
    scaling: float | None,
    kernel: Callable[..., Any] = varlen_attn,
) -> Tensor:
    """All documents of all rows by one kernel, whatever their number. Runs of padding attend to themselves."""
    batch, _, tokens, _ = query_BNTH.shape
    dtype = _compute_dtype(query_BNTH)
    flat = (part.transpose(1, 2).flatten(0, 1).to(dtype) for part in (query_BNTH, key_BNSH, value_BNSH))
    bounds, longest = documents.bounds, documents.longest_run
    causal = (-1, 0)
    mixed: Tensor = kernel(*flat, bounds, bounds, longest, longest, scale=scaling, window_size=causal, enable_gqa=True)
    mixed_BTNH = mixed.view(batch, tokens, *mixed.shape[1:])
    return mixed_BTNH if documents.real_BT is None else mixed_BTNH * documents.real_BT[..., None, None]


def _by_document(
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    spans: tuple[tuple[int, int], ...],
    scaling: float | None,
) -> Tensor:
    batch, heads, tokens, width = query_BNTH.shape
    pieces = []
    end = 0
    for start, stop in [*spans, (tokens, tokens)]:
        if start > end:
            pieces.append(query_BNTH.new_zeros(batch, start - end, heads, width))
        if stop > start:
            mixed_BNTH = F.scaled_dot_product_attention(
                query_BNTH[:, :, start:stop],
                key_BNSH[:, :, start:stop],
                value_BNSH[:, :, start:stop],
                is_causal=True,
                scale=scaling,
                enable_gqa=True,
            )
            pieces.append(mixed_BNTH.transpose(1, 2))
        end = stop
    return torch.cat(pieces, dim=1)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
