"""Every pass of every program runs forward and backward on a device that refuses what CUDA refuses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models.diffusion.decoder import DiffusionDecoder
from models.dualvitok.config import DiscriminatorConfig, DualViTokConfig, ImageTextConfig, LossConfig, NoiseConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss
from models.dualvitok.model import Codebooks, Codes, DualViTok
from models.dualvitok.noise import perturb
from models.mllm.batch import PackedBatch
from models.mllm.model import UnifiedMllm
from models.mllm.phases import find_phase, parameter_groups
from models.mllm.vision import VisionBranch
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE
from models.vision_pretraining import ImageTextModel
from stages.programs.decoder import DenoisingPass
from stages.programs.mllm import LanguagePass
from stages.programs.tokenizer import DiscriminatorPass, GeneratorPass, Reconstructions
from stages.programs.vision import ContrastivePass
from stages.training.program import MicroBatch, PassOutput
from stages.training.step_sums import StepSums
from tests.data_pipelines.tiny_run import TOKENIZER
from tests.models.diffusion.conftest import PLAIN, SDXL, make_decoder
from tests.models.mllm.conftest import make_config
from tests.pretended_device import DEVICE, PretendedDevice

Passes = Sequence[tuple[nn.Module, Any]]  # modules and their data, in the order of a step
SIDE = 64  # pixels of images


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tokenizer_passes(config: DualViTokConfig, images_BCYX: torch.Tensor, device: torch.device) -> Passes:
    model, discriminator = (
        DualViTok(config).to(device).train(),
        PatchGan(DiscriminatorConfig(channels=4, layers=1)).to(device),
    )
    loss = TokenizerLoss(LossConfig(perceptual="gradients", adversarial_start_step=0), None).to(device)
    reconstructions, images = Reconstructions(), images_BCYX.to(device)
    generator = GeneratorPass(model, loss, discriminator, reconstructions)
    return [(generator, images), (DiscriminatorPass(discriminator, loss, reconstructions), images)]


def decoder_passes(
    decoder: DiffusionDecoder, codebooks: Codebooks, images: torch.Tensor, device: torch.device
) -> Passes:
    rows = SIDE // (decoder.config.code_px * decoder.config.enlarge)
    codes = Codes(
        semantic_BYX=torch.zeros(2, rows // 2 or 1, rows // 2 or 1).long(), pixel_BYX=torch.ones(2, rows, rows).long()
    )
    module = DenoisingPass(decoder.to(device).train(), codebooks.to(device).requires_grad_(False))
    return [(module, (images.to(device), codes.to(device)))]


def packed(with_image: bool) -> PackedBatch:
    """A row of two documents, of which the second may hold an image of 32 x 32 pixels."""
    marks = [PIXEL_FEATURE] * 64 + [SEMANTIC_FEATURE] if with_image else []
    ids = torch.tensor([[1, 2, 3, 4, 60, 70, 5, *marks, 6, 7, 8]])
    segments = torch.ones_like(ids)
    segments[0, 4:] = 2
    positions = torch.cat([torch.arange(4), torch.arange(ids.shape[1] - 4)])[None]
    labels = torch.where(ids >= 0, ids, -100)
    images = [torch.zeros(3, 32, 32)] if with_image else []
    return PackedBatch(ids_BT=ids, labels_BT=labels, positions_BT=positions, segments_BT=segments, images=images)


def language_passes(phase: str, *, with_image: bool, device: torch.device) -> Passes:
    torch.manual_seed(0)
    config = make_config()
    model = UnifiedMllm(config, VisionBranch(config.vision)).to(device).train()
    parameter_groups(model, find_phase(phase))
    return [(LanguagePass(model), packed(with_image).to(device))]


def vision_passes(config: DualViTokConfig, images: torch.Tensor, device: torch.device) -> Passes:
    sizes = ImageTextConfig(
        vision=config.vision,
        vocabulary_size=9,
        padding_id=0,
        max_tokens=4,
        text_width=8,
        text_depth=1,
        embedding_width=8,
    )
    ids_BT = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 0]])
    return [(ContrastivePass(ImageTextModel(sizes).to(device)), (images.to(device), ids_BT.to(device)))]


def step(passes: Passes) -> tuple[list[torch.Tensor], StepSums]:
    """What the loop does with the passes of one micro-batch. Returns the gradients and the last pass's sums."""
    gradients = list[torch.Tensor]()
    sums = StepSums()
    for module, data in passes:
        output: PassOutput = module(data, torch.Generator().manual_seed(3), 5)
        (output.loss_sum / 2).backward()
        sums = StepSums()
        sums.add(0, MicroBatch(data=data, weight=2.0, seed=3), output)
        found = [parameter.grad for parameter in module.parameters() if parameter.requires_grad]
        assert any(gradient is not None for gradient in found)
        gradients += [gradient for gradient in found if gradient is not None]
    return gradients, sums


def small_codebooks(config: DualViTokConfig) -> Codebooks:
    semantic = replace(config.semantic, code_width=4)
    torch.manual_seed(0)
    return Codebooks(replace(config, semantic=semantic, pixel=replace(config.pixel, code_width=4)))


Make = Callable[[DualViTokConfig, torch.Tensor, torch.device], Passes]
NOISES = {kind: NoiseConfig(kind=kind, sample_share=0.9, token_share=0.5) for kind in ("random", "zero")}
PROGRAMS: dict[str, Make] = {
    "decoder on pixels": lambda config, images, device: decoder_passes(
        make_decoder(PLAIN), small_codebooks(config), images, device
    ),
    "decoder on latents": lambda config, images, device: decoder_passes(
        make_decoder(SDXL), small_codebooks(config), images, device
    ),
    "vision": vision_passes,
    **{
        f"tokenizer, {kind} noise, batch {batch}": lambda config, images, device, noise=noise, batch=batch: (
            tokenizer_passes(replace(config, noise=noise), images[:batch], device)
        )
        for kind, noise in NOISES.items()
        for batch in (1, 2)
    },
    **{
        f"{phase}, {'an image' if with_image else 'text'}": lambda config, images, device, phase=phase, w=with_image: (
            language_passes(phase, with_image=w, device=device)
        )
        for phase in ("stage1", "stage2", "stage3")
        for with_image in (False, True)
    },
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_pass_runs_forward_and_backward_on_a_device(name: str, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    expected, _ = step(PROGRAMS[name](TOKENIZER, images, torch.device("cpu")))
    with PretendedDevice() as device:
        torch.manual_seed(0)
        found, sums = step(PROGRAMS[name](TOKENIZER, images, DEVICE))
        assert all(device.holds(gradient) for gradient in found)
        assert device.waits == []  # the host is ahead of the device, forward and backward
        sums.total()
        assert len(device.waits) == 1  # metrics are moved once a step
    for gradient, same in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, same, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_pass_runs_forward_and_backward_on_a_gpu(name: str, images: torch.Tensor) -> None:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found, _ = step(PROGRAMS[name](TOKENIZER, images, torch.device("cuda", 0)))
    assert all(gradient.isfinite().all() for gradient in found)


def test_noise_drawn_on_the_device_of_the_features_is_refused_there(images: torch.Tensor) -> None:
    """The family of faults that this file is for: a draw on another device than that of its generator."""
    with PretendedDevice(), pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, generator=torch.Generator(), device=images.to(DEVICE).device)
    with PretendedDevice():
        features = images.to(DEVICE)
        noisy = perturb(features, NOISES["random"], torch.Generator().manual_seed(1))
        assert noisy.device == DEVICE
    assert torch.equal(noisy, perturb(images, NOISES["random"], torch.Generator().manual_seed(1)))
