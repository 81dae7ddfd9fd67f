import torch

from models.dualvitok.config import NoiseConfig
from models.dualvitok.noise import perturb


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


def test_replaced_positions_have_no_gradient() -> None:
    features = torch.randn(2, 4, 3, 3, requires_grad=True)
    perturb(features, NoiseConfig(kind="random", sample_share=1.0, token_share=1.0)).sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
