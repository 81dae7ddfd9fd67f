"""How much of its codebooks a tokenizer uses, counted in token shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data_pipelines.tokens.token_shards import TokenShard, require_one_tokenizer
from models.dualvitok.quantizer import code_usage


def code_use(shards: Sequence[Path]) -> dict[str, float]:
    """`<book>_codes_used` (0 to 1), `<book>_perplexity` and `<book>_codes_per_entry` (codes that were counted, over the
    size of the codebook) of both codebooks; nothing without shards.

    Raises: TokensError if a shard is damaged, or if several tokenizers made them.
    """
    opened = [TokenShard(path) for path in shards]
    tokenizer = require_one_tokenizer(opened)
    if tokenizer is None:
        return {}
    sizes = {"semantic": tokenizer.semantic_codes, "pixel": tokenizer.pixel_codes}
    counts = {book: np.zeros(size, dtype=np.int64) for book, size in sizes.items()}
    for shard in opened:
        for block in shard.blocks():
            for book, codes in (("semantic", block.semantic_NYX), ("pixel", block.pixel_NYX)):
                counts[book] += np.bincount(codes.ravel(), minlength=sizes[book])
    metrics: dict[str, float] = {}
    for book, counts_K in counts.items():
        usage = code_usage(torch.from_numpy(counts_K))
        metrics[f"{book}_codes_used"] = usage.used_share
        metrics[f"{book}_perplexity"] = usage.perplexity
        metrics[f"{book}_codes_per_entry"] = float(counts_K.sum()) / sizes[book]
    return metrics
