"""The tokenizer with its discriminator, and the diffusion decoder, in small as training programs on random images."""

from dataclasses import dataclass

import torch

from models.diffusion.unet import unet_blocks
from models.dualvitok.config import DiscriminatorConfig, LossConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss
from models.dualvitok.model import Codebooks, Codes, DualViTok
from stages.programs.decoder import DenoisingPass
from stages.programs.tokenizer import DiscriminatorPass, GeneratorPass, Reconstructions
from stages.training.program import MicroBatch, Pass, micro_batch_seed
from tests.data_pipelines.tiny_run import TOKENIZER
from tests.models.diffusion.conftest import PLAIN, make_decoder

SIDE, BATCH, RATE = 64, 2, 1e-3


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    seed: int = 3


def random_images(seed: int) -> torch.Tensor:
    return torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TinyTokenizer:
    """Both passes from the second step on."""

    rebuilds_frozen = True

    def __init__(self, task: ImageTask, device: torch.device) -> None:
        torch.manual_seed(task.seed)
        self._task = task
        model = DualViTok(TOKENIZER).to(device).train()
        discriminator = PatchGan(DiscriminatorConfig(channels=4, layers=1)).to(device)
        loss = TokenizerLoss(LossConfig(perceptual="none", adversarial_start_step=2), None)
        reconstructions = Reconstructions()
        self.passes = (
            Pass(
                name="generator",
                module=GeneratorPass(model, loss, discriminator, reconstructions),
                groups=[{"params": model.trainable_parameters(), "lr": RATE}],
            ),
            Pass(
                name="discriminator",
                module=DiscriminatorPass(discriminator, loss, reconstructions),
                groups=[{"params": list(discriminator.parameters()), "lr": RATE}],
                first_step=1,
                units=None,
            ),
        )
        self.weights = {"tokenizer": model, "discriminator": discriminator}

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        seed = micro_batch_seed(self._task.seed, step, index)
        return MicroBatch(data=random_images(seed), weight=BATCH, seed=seed)


class TinyDecoder:
    def __init__(self, task: ImageTask, device: torch.device) -> None:
        self._task = task
        decoder = make_decoder(PLAIN).to(device).train()
        torch.manual_seed(task.seed)
        module = DenoisingPass(decoder, Codebooks(TOKENIZER).to(device).requires_grad_(False))
        groups = [{"params": list(decoder.unet.parameters()), "lr": RATE}]
        self.passes = (Pass(name="denoising", module=module, groups=groups, units=unet_blocks(decoder.unet)),)
        self.weights = {"unet": decoder.unet}

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        seed = micro_batch_seed(self._task.seed, step, index)
        rows = SIDE // (PLAIN.code_px * PLAIN.enlarge)
        generator = torch.Generator().manual_seed(seed)
        codes = Codes(
            semantic_BYX=torch.randint(0, 16, (BATCH, rows // 2, rows // 2), generator=generator),
            pixel_BYX=torch.randint(0, 32, (BATCH, rows, rows), generator=generator),
        )
        return MicroBatch(data=(random_images(seed), codes), weight=BATCH, seed=seed)
