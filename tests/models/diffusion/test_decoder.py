"""The diffusion decoder: SDXL's shapes, what is denoised, guidance, training, folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from models.diffusion import decoder as decoder_module
from models.diffusion.config import (
    PUBLISHED_OUTPUTS,
    DecoderConfig,
    NoiseSchedule,
    Perturbation,
    UNetConfig,
)
from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.training import loss_weights, perturb
from models.diffusion.unet import make_unet
from models.diffusion.weights import load, save
from models.dualvitok.geometry import PUBLISHED_ANCHORS
from models.strict_weights import WeightsError

PLAIN = DecoderConfig(
    unet=UNetConfig(
        kind="plain", widths=(16, 32), residual_blocks=1, transformer_layers=(0, 1), head_width=8, norm_groups=8
    ),
    space="pixel",
    outputs=((64, 64), (64, 32)),
    semantic_channels=4,
    pixel_channels=4,
    code_px=8,
    cell_px=4,
    schedule=NoiseSchedule(solver="ddim", prediction="v_prediction", betas="squaredcos_cap_v2", zero_terminal_snr=True),
)
# The published layout with few channels.
SDXL = DecoderConfig(
    unet=UNetConfig(
        kind="sdxl", widths=(16, 32), residual_blocks=1, transformer_layers=(0, 1), head_width=8, norm_groups=8
    ),
    space="latent",
    outputs=((64, 64), (64, 32)),
    semantic_channels=4,
    pixel_channels=4,
)


def _vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.13025,
    )


def _decoder(config: DecoderConfig) -> DiffusionDecoder:
    torch.manual_seed(0)
    return DiffusionDecoder(config, vae=_vae() if config.space == "latent" else None)


@pytest.fixture(params=[PLAIN, SDXL], ids=["plain", "sdxl"])
def decoder(request: pytest.FixtureRequest) -> DiffusionDecoder:
    return _decoder(request.param)


def _features(decoder: DiffusionDecoder, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    side = decoder.config.code_px * 2
    return torch.randn(batch, 8, height // side, width // side, generator=torch.Generator().manual_seed(7))


def _images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(8)) * 2 - 1


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_network_is_sdxl_with_68_input_channels() -> None:
    with torch.device("meta"):
        unet = make_unet(DecoderConfig.published())
    assert isinstance(unet, UNet2DConditionModel)
    assert tuple(unet.conv_in.weight.shape) == (320, 68, 3, 3)
    assert tuple(unet.add_embedding.linear_1.weight.shape) == (1280, 2816)
    # SDXL's 2,567,463,684 weights, and 64 more channels of the first convolution.
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684 + 64 * 320 * 9


def test_every_anchor_and_256_has_an_output_of_twice_its_size() -> None:
    doubled = [(2 * height, 2 * width) for height, width in PUBLISHED_ANCHORS]
    assert set(PUBLISHED_OUTPUTS) == {*doubled, (512, 512)}
    # The table of the facts: place of the output in the list.
    assert [PUBLISHED_OUTPUTS.index(size) for size in doubled] == [0, 2, 1, 8, 7, 10, 9, 6, 5, 4, 3]


def test_training_and_sampling_run_at_every_output_size(decoder: DiffusionDecoder) -> None:
    for height, width in decoder.config.outputs:
        features = _features(decoder, height=height, width=width)
        loss = decoder.loss(_images(height=height, width=width), features, _random())
        loss.backward()
        images = decoder.sample(features, height=height, width=width, steps=3, guidance=1.5, generator=_random())
        assert images.shape == (2, 3, height, width)
        assert torch.isfinite(images).all()
        assert images.abs().max() <= 1
    assert all(parameter.grad is not None for parameter in decoder.unet.parameters() if parameter.requires_grad)
    if decoder.vae is not None:
        assert all(parameter.grad is None for parameter in decoder.vae.parameters())


def test_random_numbers_come_from_the_generator_alone(decoder: DiffusionDecoder) -> None:
    def once(seed: int) -> tuple[float, Tensor]:
        features = _features(decoder)
        with torch.no_grad():
            loss = decoder.loss(_images(), features, _random(seed)).item()
        sampled = decoder.sample(features, height=64, width=64, steps=2, guidance=1.0, generator=_random(seed))
        return loss, sampled

    first, again, other = once(1), once(1), once(2)
    assert first[0] == again[0] != other[0]
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


class _Recorder(nn.Module):
    """Stands in for the network's call: remembers inputs, answers with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def __call__(self, unet: nn.Module, inputs: Tensor, steps: Tensor, resolution: int) -> Tensor:
        self.calls.append((inputs, steps, resolution))
        return torch.zeros_like(inputs[:, : inputs.shape[1] - 8])


def test_guidance_blanks_the_features_of_half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, recorder = _decoder(PLAIN), _Recorder()
    monkeypatch.setattr(decoder_module, "predict", recorder)
    features = _features(decoder, height=64, width=32)
    decoder.sample(features, height=64, width=32, steps=2, guidance=2.0, generator=_random())
    inputs, steps, resolution = recorder.calls[0]
    assert inputs.shape == (4, 48 + 8, 16, 8)
    assert resolution == 1
    assert steps.tolist() == [999] * 4  # trailing spacing begins at pure noise
    assert not inputs[:2, 48:].any()
    assert torch.equal(inputs[:2, :48], inputs[2:, :48])
    # each code's features over the 4x4 cells of its 16x16 pixels
    assert torch.equal(inputs[2:, 48:], features.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    recorder.calls.clear()
    decoder.sample(features, height=64, width=32, steps=2, guidance=1.0, generator=_random())
    assert len(recorder.calls[0][0]) == 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "euler"])
def test_a_perfect_network_has_no_loss_and_draws_the_image(
    prediction: Any, solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the true answer as prediction the loss is zero and the solver ends at the clean image."""
    schedule = NoiseSchedule(solver=solver, prediction=prediction)
    decoder = _decoder(replace(PLAIN, schedule=schedule))
    images = _images()
    clean = F.pixel_unshuffle(images, 4)
    alphas = decoder.scheduler.alphas_cumprod

    def perfect(_: nn.Module, inputs: Tensor, steps: Tensor, __: int) -> Tensor:
        alpha = alphas[steps.long()].view(-1, 1, 1, 1)
        noisy = inputs[:, :48]
        epsilon = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        v = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * clean
        return {"epsilon": epsilon, "v_prediction": v, "sample": clean.expand_as(epsilon)}[prediction]

    monkeypatch.setattr(decoder_module, "predict", perfect)
    assert decoder.loss(images, _features(decoder), _random()).item() < 1e-8
    drawn = decoder.sample(_features(decoder), height=64, width=64, steps=20, guidance=1.0, generator=_random())
    torch.testing.assert_close(drawn, images, rtol=0, atol=1e-3)  # 20 steps in fp32


def test_perturbation_replaces_and_blanks_the_stated_shares() -> None:
    features = torch.rand(2000, 6, 4, 4, generator=_random(3)) + 1
    config = Perturbation()
    damaged = perturb(features, 2, config, _random(4))
    semantic, pixel = damaged[:, :2], damaged[:, 2:]
    assert (semantic == 0).flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (pixel == 0).flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    kept = semantic.flatten(1).any(dim=1)
    changed = (semantic != features[:, :2]).any(dim=1)[kept]
    touched = changed.flatten(1).any(dim=1)
    # half the images, a tenth of their 16 tokens; 0.9 ** 16 of those images lose none by chance
    assert touched.float().mean().item() == pytest.approx(0.5 * (1 - 0.9**16), abs=0.03)
    assert changed.float().mean().item() == pytest.approx(0.05, abs=0.01)


def test_replaced_tokens_are_whole_tokens_of_the_batch_even_for_one_image() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 6, 4, 4)
    config = Perturbation(noisy_samples=1.0, noisy_tokens=1.0, drop_semantic=0.0, drop_pixel=0.0)
    damaged = perturb(features, 2, config, _random(0))
    assert not torch.equal(damaged, features)
    assert (damaged == damaged[:, :1]).all()
    assert sorted(damaged[0, 0].flatten().tolist()) == list(range(16))
    untouched = Perturbation(noisy_samples=0.0, noisy_tokens=0.0, drop_semantic=0.0, drop_pixel=0.0)
    assert torch.equal(perturb(features, 2, untouched, _random(0)), features)


def test_min_snr_weights_follow_the_formula() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01])
    snr = alphas / (1 - alphas)
    expected = torch.tensor([5 / 99.0, 1.0, 1.0])
    torch.testing.assert_close(loss_weights(alphas, prediction="epsilon", min_snr=5.0), expected, rtol=1e-4, atol=0)
    v_weights = loss_weights(alphas, prediction="v_prediction", min_snr=5.0)
    torch.testing.assert_close(v_weights, snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(loss_weights(alphas, prediction="sample", min_snr=5.0), snr.clamp(max=5))
    assert loss_weights(alphas, prediction="epsilon", min_snr=None).tolist() == [1, 1, 1]


def test_a_folder_gives_back_the_same_decoder(decoder: DiffusionDecoder, tmp_path: Path) -> None:
    save(decoder, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == decoder.config
    assert type(loaded.scheduler) is type(decoder.scheduler)
    before, after = decoder.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    arguments: dict[str, Any] = {"height": 64, "width": 64, "steps": 2, "guidance": 1.5}
    theirs = loaded.sample(_features(decoder), generator=_random(), **arguments)
    ours = decoder.sample(_features(decoder), generator=_random(), **arguments)
    # Equal weights in other places of the memory: the last bits of a convolution may differ.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_the_parts_of_a_folder_load_with_plain_diffusers(tmp_path: Path) -> None:
    decoder = _decoder(PLAIN)
    save(decoder, tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in decoder.unet.state_dict().items())
    assert DDIMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"


def test_damaged_or_foreign_folders_are_refused(tmp_path: Path) -> None:
    decoder = _decoder(PLAIN)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path)
    save(decoder, tmp_path)
    config = (tmp_path / "unet" / "config.json").read_text()
    (tmp_path / "unet" / "config.json").write_text(config.replace('"UNet2DModel"', '"FluxTransformer2DModel"'))
    with pytest.raises(WeightsError, match="holds a FluxTransformer2DModel, expected one of AutoencoderKL"):
        load(tmp_path)
    (tmp_path / "unet" / "config.json").write_text(config)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing"):
        load(tmp_path)
    save(decoder, tmp_path)
    (tmp_path / "config.json").write_text(replace(PLAIN, pixel_channels=5).to_json())
    with pytest.raises(WeightsError, match=r"takes 56 channels, but config.json says 57"):
        load(tmp_path)


def test_sizes_that_do_not_fit_are_refused() -> None:
    decoder = _decoder(PLAIN)
    features = _features(decoder)
    with pytest.raises(ValueError, match=r"output of 32x64 \(HxW\) for 4x4 codes, which give 64x64"):
        decoder.sample(features, height=32, width=64, steps=1, guidance=1.0, generator=_random())
    with pytest.raises(ValueError, match=r"cannot draw 32x32 \(HxW\); it was built for 64x64, 64x32"):
        decoder.loss(_images(height=32, width=32), _features(decoder, height=32, width=32), _random())
    with pytest.raises(ValueError, match="features: 5 channels, expected 8"):
        decoder.loss(_images(), features[:, :5], _random())
    with pytest.raises(ValueError, match="needs an autoencoder"):
        DiffusionDecoder(SDXL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ()}, "expected at least one"),
        ({"outputs": ((60, 64),)}, "sides multiples of 8 pixels"),
        ({"cell_px": 5}, "does not divide 16"),
        ({"space": "latent"}, "cells of 8 pixels"),
    ],
)
def test_configurations_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


def test_configuration_survives_json() -> None:
    assert DecoderConfig.from_json(PLAIN.to_json()) == PLAIN
    assert DecoderConfig.from_json(DecoderConfig.published().to_json()) == DecoderConfig.published()
