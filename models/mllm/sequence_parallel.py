"""Sequence parallelism: each worker of a group holds the same number of tokens of every row.

What a layer does with one token alone needs no exchange. Around attention, the workers exchange heads for tokens: each
gets all tokens of some heads, and gives back what they attended to. So attention is that of whole rows, and a row may
be as long as the workers of a group can hold together.
Source: DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509, section 3.1.
Letters: B batch, N query heads, S key and value heads, T tokens of a whole row, H width of a head, W workers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class SequenceGroup:
    """Workers that compute each micro-batch together, and the place of this one among them."""

    rank: int
    size: int
    process_group: dist.ProcessGroup

    def columns(self, row_tokens: int) -> range:
        """The tokens of a row that this worker holds."""
        tokens = row_tokens // self.size
        return range(self.rank * tokens, (self.rank + 1) * tokens)


def sequence_group(size: int) -> SequenceGroup:
    """The group of this worker: `size` neighbours by rank. Called by all workers, whose number `size` divides."""
    group, _ = dist.new_subgroups(group_size=size)
    return SequenceGroup(rank=dist.get_rank() % size, size=size, process_group=group)


def heads_of_all_tokens(
    query_BNTH: Tensor, key_BSTH: Tensor, value_BSTH: Tensor, group: SequenceGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """From all heads of this worker's tokens to its share of the heads of all tokens. `group.size` divides N.

    Where it does not divide S, heads of keys and values are repeated, so that each worker has those of its queries.
    """
    shared = key_BSTH.shape[1]
    repeats = math.lcm(shared, group.size) // shared
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key_BSTH, value_BSTH))
    parts = [part.unflatten(1, (group.size, -1)) for part in (query_BNTH, key, value)]
    together = torch.cat(parts, dim=2).movedim(1, 0)  # [W to, B, heads, tokens, H]
    exchanged = _exchange(together, group).movedim(0, 2).flatten(2, 3)  # [B, heads, T, H]
    query, key, value = exchanged.split([part.shape[2] for part in parts], dim=1)
    return query, key, value


def tokens_of_all_heads(mixed_BTNH: Tensor, group: SequenceGroup) -> Tensor:
    """The inverse for what the heads of this worker attended to: all heads of its own tokens."""
    by_worker = mixed_BTNH.unflatten(1, (group.size, -1)).movedim(1, 0)  # [W to, B, tokens, heads, H]
    return _exchange(by_worker, group).movedim(0, 2).flatten(2, 3)


def _exchange(parts: Tensor, group: SequenceGroup) -> Tensor:
    """[W from, ...] from [W to, ...]: part `w` goes to worker `w`."""
    exchanged: Tensor = _Exchange.apply(parts, group.process_group)
    return exchanged


class _Exchange(torch.autograd.Function):
    """Its transpose is itself."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(parts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(gradient, ctx.group), None


def _all_to_all(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    sent = parts.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received
