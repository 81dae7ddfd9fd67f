"""Next-token cross-entropy over a large vocabulary, in chunks of positions, so that never all scores exist at once.

Gradients are computed chunk by chunk while the scores exist: three matrix products, as with full scores.
torch's `linear_cross_entropy` can do this too, for one table and without a weight per position; here the table has
parts of which some are frozen, and the loss of each position is reported. Tests compare with it.
Letters: M trained positions, D width, V vocabulary rows, B batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.mllm.vocabulary import IGNORED_LABEL

CHUNK_SHARE = 64  # of a device's memory: 2.2 GiB of an H200, so two chunks for a row of 4,096 tokens of 283k ids


class NextTokens(NamedTuple):
    """The trained positions and their targets."""

    positions_BT: Tensor  # bool, over all but the last position
    targets_M: Tensor  # int64


def next_tokens(labels_BT: Tensor, segments_BT: Tensor) -> NextTokens:
    """Positions whose next label is trained and belongs to the same document.

    The label at t is the id at t; a document's first token is never a target. Segment 0 is padding.
    """
    following = labels_BT[:, 1:]
    same = (segments_BT[:, 1:] == segments_BT[:, :-1]) & (segments_BT[:, 1:] > 0)
    positions_BT = same & (following != IGNORED_LABEL)
    return NextTokens(positions_BT, following[positions_BT])


def chunk_bytes(least: int, device: torch.device) -> int:
    """Bytes of scores that may exist at once: more on a device with much memory, as each chunk reads and writes the
    gradient of the whole table.

    It follows from what the device has and not from what is free, so that equal runs sum in the same order.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return least
    total: int = torch.cuda.get_device_properties(device).total_memory
    return max(least, total // CHUNK_SHARE)


def chunked_cross_entropy(
    hidden_MD: Tensor,
    tables_VD: Sequence[Tensor],
    targets_M: Tensor,
    weights_M: Tensor,
    *,
    chunk_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses in fp32, and the unweighted loss of each position (fp32, without gradient).

    `tables_VD` are the parts of the output table in the order of their ids; a part that requires no gradient gets none.
    Scores are computed in the autocast type, if any, and summed in fp32. Only one backward pass is possible.
    """
    device_type = hidden_MD.device.type
    autocast = torch.is_autocast_enabled(device_type)
    compute_dtype = torch.get_autocast_dtype(device_type) if autocast else hidden_MD.dtype
    row_bytes = 4 * sum(len(table) for table in tables_VD)
    chunk = max(1, chunk_bytes // row_bytes)
    with torch.autocast(device_type, enabled=False):
        result = _ChunkedCrossEntropy.apply(hidden_MD, targets_M, weights_M.float(), compute_dtype, chunk, *tables_VD)
    return cast(tuple[Tensor, Tensor], result)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        targets_M: Tensor,
        weights_M: Tensor,
        compute_dtype: torch.dtype,
        chunk: int,
        *tables_VD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        hidden = hidden_MD.to(compute_dtype)
        tables = [table.to(compute_dtype) for table in tables_VD]
        losses_M = hidden.new_empty(len(hidden), dtype=torch.float32)
        needs_hidden, needs_tables = ctx.needs_input_grad[0], ctx.needs_input_grad[5:]
        grad_hidden = torch.zeros_like(hidden_MD) if needs_hidden else None
        grad_tables = [
            torch.zeros_like(table, dtype=torch.float32) if needed else None
            for table, needed in zip(tables_VD, needs_tables, strict=True)
        ]
        for start in range(0, len(hidden), chunk):
            span = slice(start, start + chunk)
            scores, losses_M[span] = _losses(hidden[span], tables, targets_M[span])
            if not any(ctx.needs_input_grad):
                continue
            # d loss / d score = weight * (probability - 1 at the target)
            scores.scatter_add_(1, targets_M[span, None], scores.new_full((len(scores), 1), -1.0))
            scores *= weights_M[span, None]
            parts = scores.to(compute_dtype).split([len(table) for table in tables], dim=1)
            for part, table, grad in zip(parts, tables, grad_tables, strict=True):
                if grad_hidden is not None:
                    grad_hidden[span] += part @ table
                if grad is not None:
                    _add_product(grad, part, hidden[span])
            del scores, parts
        ctx.gradients = [grad_hidden, *grad_tables]
        ctx.dtypes = [table.dtype for table in tables_VD]
        ctx.mark_non_differentiable(losses_M)
        return (losses_M * weights_M).sum(), losses_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("chunked_cross_entropy: gradients were already taken; run the forward pass again")
        grad_hidden, *grad_tables = ctx.gradients
        ctx.gradients = None
        scaled = [
            None if grad is None else grad.mul_(grad_sum).to(dtype)
            for grad, dtype in zip(grad_tables, ctx.dtypes, strict=True)
        ]
        return None if grad_hidden is None else grad_hidden * grad_sum, None, None, None, None, *scaled


def _losses(hidden_MD: Tensor, tables: Sequence[Tensor], targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [M, V] in fp32 and losses [M]; only one such array exists at a time."""
    scores = hidden_MD.new_empty(len(hidden_MD), sum(len(table) for table in tables), dtype=torch.float32)
    start = 0
    for table in tables:
        scores[:, start : start + len(table)] = hidden_MD @ table.T
        start += len(table)
    scores -= scores.amax(dim=1, keepdim=True)
    at_target = scores.gather(1, targets_M[:, None]).squeeze(1)
    sums = scores.exp_().sum(dim=1)
    scores /= sums[:, None]
    return scores, sums.log() - at_target


def _add_product(grad_VD: Tensor, part_MV: Tensor, hidden_MD: Tensor) -> None:
    """grad += part.T @ hidden, in fp32; without a temporary array where the types allow it."""
    if part_MV.dtype == torch.float32:
        grad_VD.addmm_(part_MV.T, hidden_MD)
    else:
        grad_VD += part_MV.T @ hidden_MD
