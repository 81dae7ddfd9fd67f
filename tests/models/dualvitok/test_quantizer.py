import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dualvitok import quantizer
from models.dualvitok.quantizer import SimVQ, code_usage, nearest_codes


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), codes=st.integers(1, 70), tile=st.integers(1, 80), seed=st.integers(0, 1000))
def test_the_tiled_search_equals_argmin_of_all_distances(rows: int, codes: int, tile: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: scores are exact in fp32 and equally near codes are frequent.
    x = torch.randint(-2, 3, (rows, 4), generator=generator).float()
    codebook = torch.randint(-2, 3, (codes, 4), generator=generator).float()
    expected = (x[:, None] - codebook[None]).square().sum(-1).min(1)
    first = ((x[:, None] - codebook[None]).square().sum(-1) == expected.values[:, None]).int().argmax(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizer, "_TILE", tile)
        patch.setattr(quantizer, "_TILES_PER_STEP", 2)
        patch.setattr(quantizer, "_ROWS_PER_STEP", 7)
        assert torch.equal(nearest_codes(x, codebook), first)


def test_the_search_over_many_codes_equals_cdist_in_double() -> None:
    torch.manual_seed(0)
    x, codebook = torch.randn(300, 32) * 0.2, torch.randn(20_000, 32) * 32**-0.5
    assert torch.equal(nearest_codes(x, codebook), torch.cdist(x.double(), codebook.double()).argmin(1))


def test_gradients_pass_straight_to_the_latents_and_train_the_transform() -> None:
    torch.manual_seed(0)
    vq = SimVQ(50, 8)
    latents = torch.randn(2, 8, 3, 4, requires_grad=True)
    result = vq(latents)
    torch.testing.assert_close(result.features_BZYX, vq.decode(result.codes_BYX), atol=1e-6, rtol=0)
    gradient = torch.randn_like(latents)
    (found,) = torch.autograd.grad(result.features_BZYX, latents, gradient, retain_graph=True)
    assert torch.equal(found, gradient)
    result.loss.backward()
    assert vq.code_transform.weight.grad is not None
    assert vq.code_transform.weight.grad.norm() > 0
    torch.testing.assert_close(
        latents.grad,
        0.25 * 2 * (latents - vq.decode(result.codes_BYX)).detach() / latents.numel(),
        atol=1e-6,
        rtol=1e-4,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codebooks_stay_in_full_precision_when_a_model_is_cast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vq = SimVQ(50, 8)
    before, latents = vq.effective_codebook(), torch.randn(1, 8, 4, 4)
    codes = vq.encode(latents.to(dtype).float())
    vq = vq.to(dtype)
    assert torch.equal(vq.effective_codebook(), before)
    assert torch.equal(vq.encode(latents.to(dtype)), codes)


def test_codes_of_another_tokenizer_are_refused() -> None:
    vq = SimVQ(50, 8)
    for codes in ([[[50]]], [[[-1]]]):
        with pytest.raises(ValueError, match="the codebook has 0 to 49; these codes belong to another tokenizer"):
            vq.decode(torch.tensor(codes))


def test_usage_counts_codes_and_their_evenness() -> None:
    usage = code_usage(torch.tensor([5, 5, 0, 0]))
    assert usage.used_share == 0.5
    assert usage.perplexity == pytest.approx(2.0)
