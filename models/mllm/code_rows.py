"""Initial vectors of image codes from the codebooks of the tokenizer: codes that look alike begin alike.

What a model learns about one code is then true of its neighbours from the first step. Random vectors have to learn that
code by code, which takes as many images as it takes to see every code often.
Letters: K codes, Z code width, D width of the language model.
"""

import torch

from models.dualvitok.model import Codebooks
from models.mllm.model import TokenTable, UnifiedMllm

CODEBOOK_SHARE = 0.8  # of the variance; the rest stays as it was, so that a linear output can part codes in one line


@torch.no_grad()
def start_from_codebooks(model: UnifiedMllm, codebooks: Codebooks) -> None:
    """Replace most of the vectors of image codes, in all token tables, by a random projection of the codebooks.

    Vectors keep their size. The projection comes from torch's global random numbers.
    """
    vocabulary, tables = model.vocabulary, [model.embedding] + ([model.head] if model.head is not None else [])
    parts = (
        (codebooks.semantic_quantizer.effective_codebook(), vocabulary.semantic_range),
        (codebooks.pixel_quantizer.effective_codebook(), vocabulary.pixel_range),
    )
    for codes_KZ, ids in parts:
        codes_KZ = codes_KZ - codes_KZ.mean(dim=0)
        projected_KD = codes_KZ @ torch.randn(codes_KZ.shape[1], model.config.text.hidden_size)
        for table in tables:
            _mix(table, ids, projected_KD)


def _mix(table: TokenTable, ids: range, projected_KD: torch.Tensor) -> None:
    first = len(table.text)
    rows_KD = table.vision[ids.start - first : ids.stop - first]
    scale = float(rows_KD.std() / projected_KD.std())
    rows_KD.mul_((1 - CODEBOOK_SHARE) ** 0.5).add_(projected_KD.to(rows_KD), alpha=scale * CODEBOOK_SHARE**0.5)
