"""Initial vectors of image codes from codebooks: near codes have near vectors, and all else stays as it was."""

import torch
import torch.nn.functional as F

from models.dualvitok.config import DualViTokConfig, SemanticConfig
from models.dualvitok.model import Codebooks
from models.mllm.code_rows import start_from_codebooks
from models.mllm.model import UnifiedMllm


def similarities(vectors_KD: torch.Tensor) -> torch.Tensor:
    unit_KD = F.normalize(vectors_KD - vectors_KD.mean(0), dim=1)
    return (unit_KD @ unit_KD.T)[~torch.eye(len(unit_KD), dtype=torch.bool)]


def test_codes_that_are_near_in_the_codebook_have_near_vectors(model: UnifiedMllm) -> None:
    config, vocabulary = model.config, model.vocabulary
    codebooks = Codebooks(
        DualViTokConfig(
            vision=config.vision.tower,
            semantic=SemanticConfig(codebook_size=config.tokens.semantic_codes, code_width=4),
            pixel=config.vision.pixel,
        )
    ).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    start_from_codebooks(model, codebooks)
    after = model.state_dict()
    first = vocabulary.first_id
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert changed == [f"{table}.vision" for table in ("embedding", "head") if f"{table}.vision" in after]
    codes = range(vocabulary.semantic_range.start - first, vocabulary.pixel_range.stop - first)
    for name in changed:
        was, now = before[name], after[name]
        assert torch.equal(now[: codes.start], was[: codes.start])  # markers and tags
        assert torch.equal(now[codes.stop :], was[codes.stop :])  # unused rows
        for quantizer, ids in (
            (codebooks.semantic_quantizer, vocabulary.semantic_range),
            (codebooks.pixel_quantizer, vocabulary.pixel_range),
        ):
            rows = slice(ids.start - first, ids.stop - first)
            wanted = similarities(quantizer.effective_codebook())
            assert torch.corrcoef(torch.stack([wanted, similarities(now[rows])]))[0, 1] > 0.5
            assert abs(float(torch.corrcoef(torch.stack([wanted, similarities(was[rows])]))[0, 1])) < 0.3
            assert 0.8 < float(now[rows].std() / was[rows].std()) < 1.2
