from typing import TYPE_CHECKING

import pytest
import torch

from models.dualvitok.config import DiscriminatorConfig, LossConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss, psnr_db
from models.dualvitok.model import DualViTok
from models.strict_weights import WeightsError

if TYPE_CHECKING:
    pass


def test_the_discriminator_gives_no_gradient_to_the_generator(tiny_model: DualViTok) -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    outputs = tiny_model.train()(images)
    loss = TokenizerLoss(LossConfig(perceptual="none", adversarial_start_step=1))
    discriminator = PatchGan(DiscriminatorConfig(channels=4, layers=2))
    total, _ = loss.discriminator(images, outputs.images_BCYX, 0, discriminator)
    total.backward()
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_lpips_without_weights_is_refused_before_training() -> None:
    with pytest.raises(WeightsError, match="choose perceptual: gradients or none"):
        TokenizerLoss(LossConfig())


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 3, 8, 8)
    assert psnr_db(images, images + 0.2).item() == pytest.approx(20.0, abs=1e-4)


def test_a_tiny_tokenizer_learns_a_few_images(tiny_model: DualViTok) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4, generator=generator) * 2 - 1, size=(32, 32))
    loss = TokenizerLoss(LossConfig(perceptual="gradients", perceptual_weight=0.2))
    optimizer = torch.optim.Adam(tiny_model.train().trainable_parameters(), lr=2e-3)
    values = []
    for step in range(25):
        total, terms = loss.generator(images, tiny_model(images, generator), step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(terms["psnr_db"].item())
    assert values[-1] > values[0] + 3
