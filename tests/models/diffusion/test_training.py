"""Perturbation of code features, and loss weights of noise levels."""

import pytest
import torch

from models.diffusion.config import Perturbation
from models.diffusion.training import loss_weights, perturb
from tests.models.diffusion.conftest import rng


def test_perturbation_replaces_and_zeroes_the_stated_shares() -> None:
    features = torch.rand(2000, 6, 4, 4, generator=rng(3)) + 1
    config = Perturbation()
    perturbed = perturb(features, 2, config, rng(4))
    semantic, pixel = perturbed[:, :2], perturbed[:, 2:]
    assert (semantic == 0).flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (pixel == 0).flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    kept = semantic.flatten(1).any(dim=1)
    changed = (semantic != features[:, :2]).any(dim=1)[kept]
    affected = changed.flatten(1).any(dim=1)
    # half the images, a tenth of their 16 tokens; 0.9 ** 16 of those images lose none by chance
    assert affected.float().mean().item() == pytest.approx(0.5 * (1 - 0.9**16), abs=0.03)
    assert changed.float().mean().item() == pytest.approx(0.05, abs=0.01)


def test_replaced_tokens_are_whole_tokens_of_the_batch_even_for_one_image() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 6, 4, 4)
    config = Perturbation(noisy_samples=1.0, noisy_tokens=1.0, drop_semantic=0.0, drop_pixel=0.0)
    perturbed = perturb(features, 2, config, rng(0))
    assert not torch.equal(perturbed, features)
    assert (perturbed == perturbed[:, :1]).all()
    assert sorted(perturbed[0, 0].flatten().tolist()) == list(range(16))
    off = Perturbation(noisy_samples=0.0, noisy_tokens=0.0, drop_semantic=0.0, drop_pixel=0.0)
    assert torch.equal(perturb(features, 2, off, rng(0)), features)


def test_min_snr_weights_follow_the_formula() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01])
    snr = alphas / (1 - alphas)
    expected = torch.tensor([5 / 99.0, 1.0, 1.0])
    torch.testing.assert_close(loss_weights(alphas, prediction="epsilon", min_snr=5.0), expected, rtol=1e-4, atol=0)
    v_weights = loss_weights(alphas, prediction="v_prediction", min_snr=5.0)
    torch.testing.assert_close(v_weights, snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(loss_weights(alphas, prediction="sample", min_snr=5.0), snr.clamp(max=5))
    assert loss_weights(alphas, prediction="epsilon", min_snr=None).tolist() == [1, 1, 1]
