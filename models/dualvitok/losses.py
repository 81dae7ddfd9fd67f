"""The losses of tokenizer training, for generator and discriminator.

Source: ILLUME+ section 3.1 and released configurations (facts 2.1). Steps count from 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.config import LossConfig
from models.dualvitok.model import TrainingOutputs
from models.dualvitok.perceptual import Lpips, gradient_distance
from models.strict_weights import WeightsError


def cosine_distance(target_BTD: Tensor, found_BTD: Tensor) -> Tensor:
    """Mean over tokens of 1 - cosine, in fp32."""
    return (1 - F.cosine_similarity(target_BTD.float(), found_BTD.float(), dim=-1)).mean()


def psnr_db(images_BCYX: Tensor, found_BCYX: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of a whole batch in dB, images in [-1, 1], the found ones clamped to it."""
    return 10 * torch.log10(4 / F.mse_loss(found_BCYX.float().clamp(-1, 1), images_BCYX.float()).clamp(min=1e-12))


def hinge_discriminator_loss(real_logits: Tensor, found_logits: Tensor) -> Tensor:
    """Half the hinge losses: real logits above 1 and reconstructed ones below -1 cost nothing."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + found_logits).mean())


class TokenizerLoss(nn.Module):
    """Both losses. Holds the frozen LPIPS network if the configuration uses it; has nothing to train or save."""

    def __init__(self, config: LossConfig, lpips: Lpips | None = None) -> None:
        super().__init__()
        if config.perceptual == "lpips" and lpips is None:
            raise WeightsError(
                "perceptual loss 'lpips': no weights given; give them by path, or choose perceptual: gradients or none"
            )
        self.config = config
        self.lpips = lpips

    def adversarial_weight(self, step: int) -> float:
        """0 before the start step. `step` counts from 0, the start step of the configuration from 1."""
        return self.config.adversarial_weight if step + 1 >= self.config.adversarial_start_step else 0.0

    def generator(
        self, images_BCYX: Tensor, outputs: TrainingOutputs, step: int, discriminator: nn.Module | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its terms (detached, unweighted, by name; also `psnr_db`).

        Freeze the discriminator's parameters around this call; it is evaluated only from the start step on.
        """
        config = self.config
        found = outputs.images_BCYX.float()
        images = images_BCYX.float()
        terms = {
            "pixel": F.mse_loss(found, images) if config.pixel == "l2" else F.l1_loss(found, images),
            "pixel_codebook": outputs.pixel_codebook_loss,
            "semantic_codebook": outputs.semantic_codebook_loss,
            "semantic_cosine": cosine_distance(outputs.semantic_target_BTD, outputs.semantic_BTD),
        }
        total = (
            config.pixel_weight * terms["pixel"]
            + config.codebook_weight * (terms["pixel_codebook"] + terms["semantic_codebook"])
            + config.semantic_weight * terms["semantic_cosine"]
        )
        if config.perceptual != "none":
            terms["perceptual"] = self._perceptual(images, found)
            total = total + config.perceptual_weight * terms["perceptual"]
        weight = self.adversarial_weight(step)
        if weight and discriminator is not None:
            terms["adversarial"] = -discriminator(found).float().mean()
            total = total + weight * terms["adversarial"]
        logged = {name: value.detach() for name, value in terms.items()}
        return total, logged | {"total": total.detach(), "psnr_db": psnr_db(images, found.detach())}

    def discriminator(
        self, images_BCYX: Tensor, found_BCYX: Tensor, step: int, discriminator: nn.Module
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator (exactly 0 before the start step) and its terms; the generator gets no gradient."""
        real = discriminator(images_BCYX).float()
        found = discriminator(found_BCYX.detach()).float()
        total = self.adversarial_weight(step) * hinge_discriminator_loss(real, found)
        terms = {
            "discriminator": total.detach(),
            "real_logits": real.mean().detach(),
            "found_logits": found.mean().detach(),
        }
        return total, terms

    def _perceptual(self, images_BCYX: Tensor, found_BCYX: Tensor) -> Tensor:
        if self.lpips is None:
            return gradient_distance(images_BCYX, found_BCYX)
        with torch.autocast(images_BCYX.device.type, enabled=False):
            distance: Tensor = self.lpips(images_BCYX, found_BCYX).mean()
        return distance
