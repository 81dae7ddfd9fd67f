from typing import Any

import pytest
import torch
from torch import Tensor

from models.dualvitok.config import NoiseConfig
from models.dualvitok.noise import perturb


@pytest.mark.parametrize("kind", ["random", "zero"])
def test_perturbation_equals_the_golden_one(golden_extra: tuple[dict[str, Any], dict[str, Tensor]], kind: Any) -> None:
    facts, tensors = golden_extra
    rates = facts["noise"]["rates"]
    config = NoiseConfig(kind=kind, sample_share=rates["pixel_drop_batch_rate"], token_share=rates["pixel_drop_rate"])
    generator = torch.Generator().manual_seed(facts["noise"]["torch_manual_seed"])
    found = perturb(tensors["noise/quant_pixel_in"], config, generator)
    torch.testing.assert_close(found, tensors[f"noise/{kind}_out"], atol=1e-6, rtol=0)


def test_a_batch_of_one_is_perturbed_too() -> None:
    """The published code rolls a batch of one onto itself, so its noise silently does nothing there."""
    features = torch.randn(1, 4, 8, 8)
    found = perturb(
        features, NoiseConfig(kind="random", sample_share=1.0, token_share=0.5), torch.Generator().manual_seed(0)
    )
    changed = (found != features).any(1)
    assert 0.25 < changed.float().mean() < 0.75
    originals = features.flatten(2)[0].T
    assert all((originals == place).all(1).any() for place in found.flatten(2)[0].T)


def test_replaced_places_carry_no_gradient() -> None:
    features = torch.randn(2, 4, 3, 3, requires_grad=True)
    perturb(features, NoiseConfig(kind="random", sample_share=1.0, token_share=1.0)).sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
