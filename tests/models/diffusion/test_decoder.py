"""The diffusion decoder: training, sampling, guidance, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion import decoder as decoder_module
from models.diffusion.config import NoiseSchedule
from models.diffusion.decoder import DiffusionDecoder
from tests.models.diffusion.conftest import PLAIN, SDXL, make_decoder, random_features, random_images, rng


def test_training_and_sampling_run_at_every_output_size(decoder: DiffusionDecoder) -> None:
    for height, width in decoder.config.outputs:
        features = random_features(decoder, height=height, width=width)
        loss = decoder.loss(random_images(height=height, width=width), features, rng())
        loss.backward()
        images = decoder.sample(features, height=height, width=width, steps=3, guidance=1.5, generator=rng())
        assert images.shape == (2, 3, height, width)
        assert torch.isfinite(images).all()
        assert images.abs().max() <= 1
    assert all(parameter.grad is not None for parameter in decoder.unet.parameters() if parameter.requires_grad)
    if decoder.vae is not None:
        assert all(parameter.grad is None for parameter in decoder.vae.parameters())


def test_random_numbers_come_from_the_generator_alone(decoder: DiffusionDecoder) -> None:
    def once(seed: int) -> tuple[float, Tensor]:
        features = random_features(decoder)
        with torch.no_grad():
            loss = decoder.loss(random_images(), features, rng(seed)).item()
        sampled = decoder.sample(features, height=64, width=64, steps=2, guidance=1.0, generator=rng(seed))
        return loss, sampled

    first, again, other = once(1), once(1), once(2)
    assert first[0] == again[0] != other[0]
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


class _Recorder(nn.Module):
    """Replaces the network's call: records the inputs and returns zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def __call__(self, unet: nn.Module, inputs: Tensor, steps: Tensor, resolution: int) -> Tensor:
        self.calls.append((inputs, steps, resolution))
        return torch.zeros_like(inputs[:, : inputs.shape[1] - 8])


def test_a_share_of_the_images_is_trained_at_the_last_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, recorder = make_decoder(PLAIN), _Recorder()
    monkeypatch.setattr(decoder_module, "predict", recorder)
    features, images = random_features(decoder, height=64, width=64), random_images()
    drawn = []
    for share in (0.0, 0.5, 1.0):
        for seed in range(40):
            decoder.losses(images, features, rng(seed), last_level_share=share)
        drawn.append(torch.cat([steps for _, steps, _ in recorder.calls]))
        recorder.calls.clear()
    never, half, always = ((steps == 999).float().mean().item() for steps in drawn)
    assert never < 0.05
    assert half == pytest.approx(0.5, abs=0.2)
    assert always == 1.0


def test_guidance_zeroes_the_features_of_half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, recorder = make_decoder(PLAIN), _Recorder()
    monkeypatch.setattr(decoder_module, "predict", recorder)
    features = random_features(decoder, height=64, width=32)
    decoder.sample(features, height=64, width=32, steps=2, guidance=2.0, generator=rng())
    inputs, steps, resolution = recorder.calls[0]
    assert inputs.shape == (4, 48 + 8, 16, 8)
    assert resolution == 1
    assert steps.tolist() == [999] * 4  # trailing spacing begins at pure noise
    assert not inputs[:2, 48:].any()
    assert torch.equal(inputs[:2, :48], inputs[2:, :48])
    # each code's features over the 4x4 cells of its 16x16 pixels
    assert torch.equal(inputs[2:, 48:], features.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    recorder.calls.clear()
    decoder.sample(features, height=64, width=32, steps=2, guidance=1.0, generator=rng())
    assert len(recorder.calls[0][0]) == 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "euler"])
def test_a_perfect_network_has_no_loss_and_gives_the_image(
    prediction: Any, solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the true answer as prediction the loss is zero and the solver ends at the clean image."""
    schedule = NoiseSchedule(solver=solver, prediction=prediction)
    decoder = make_decoder(replace(PLAIN, schedule=schedule))
    images = random_images()
    clean = F.pixel_unshuffle(images, 4)
    alphas = decoder.scheduler.alphas_cumprod

    def perfect(_: nn.Module, inputs: Tensor, steps: Tensor, __: int) -> Tensor:
        alpha = alphas[steps.long()].view(-1, 1, 1, 1)
        noisy = inputs[:, :48]
        epsilon = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        v = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * clean
        return {"epsilon": epsilon, "v_prediction": v, "sample": clean.expand_as(epsilon)}[prediction]

    monkeypatch.setattr(decoder_module, "predict", perfect)
    assert decoder.loss(images, random_features(decoder), rng()).item() < 1e-8
    sampled = decoder.sample(random_features(decoder), height=64, width=64, steps=20, guidance=1.0, generator=rng())
    torch.testing.assert_close(sampled, images, rtol=0, atol=1e-3)  # 20 steps in fp32


def test_sizes_that_do_not_fit_are_refused() -> None:
    decoder = make_decoder(PLAIN)
    features = random_features(decoder)
    with pytest.raises(ValueError, match=r"output of 32x64 \(HxW\) for 4x4 codes, which give 64x64"):
        decoder.sample(features, height=32, width=64, steps=1, guidance=1.0, generator=rng())
    with pytest.raises(ValueError, match=r"cannot generate 32x32 \(HxW\); it was built for 64x64, 64x32"):
        decoder.loss(random_images(height=32, width=32), random_features(decoder, height=32, width=32), rng())
    with pytest.raises(ValueError, match="features: 5 channels, expected 8"):
        decoder.loss(random_images(), features[:, :5], rng())
    with pytest.raises(ValueError, match="needs an autoencoder"):
        DiffusionDecoder(SDXL)
