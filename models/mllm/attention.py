"""Which positions see which: causal inside a document, nothing across documents of a packed row.

The one seam for other kernels: `attention_inputs` turns segments into what the decoder layers get. A variable-length
kernel would take the boundaries of the segments here instead of a mask.
Letters: B batch, T tokens (queries), S keys.
"""

import torch
from torch import Tensor


def attention_inputs(segments_BT: Tensor) -> dict[str, Tensor]:
    """Masks by kind of layer, for the decoder of transformers with scaled-dot-product attention."""
    return {"full_attention": packed_mask(segments_BT)}


def packed_mask(segments_BT: Tensor) -> Tensor:
    """Bool [B, 1, T, S], true where a query may look. Padding (segment 0) sees padding, so no row is empty."""
    tokens = segments_BT.shape[1]
    causal_TS = torch.ones(tokens, tokens, dtype=torch.bool, device=segments_BT.device).tril()
    return ((segments_BT[:, :, None] == segments_BT[:, None, :]) & causal_TS)[:, None]


def cache_mask(positions_BT: Tensor, length: int) -> Tensor:
    """Bool [B, 1, T, S] for queries at given positions over a cache whose slots are positions."""
    slots_S = torch.arange(length, device=positions_BT.device)
    return (slots_S <= positions_BT[:, :, None])[:, None]
