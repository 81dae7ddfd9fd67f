"""The diffusion decoder: noise and code features to images of twice the tokenized size.

Images are floats in [-1, 1]. Code features are those of `DualViTok.code_features`, on the pixel grid.
Letters: B batch, C channels, Z code channels, Y X rows and columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor, nn

from models.diffusion.config import DecoderConfig
from models.diffusion.training import loss_weights, perturb
from models.diffusion.unet import make_unet, predict


class DiffusionDecoder(nn.Module):
    """The network is trained; the autoencoder (only in latent space) is frozen. `scheduler` is one of diffusers'."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        unet: nn.Module | None = None,
        vae: AutoencoderKL | None = None,
        scheduler: Any | None = None,
    ) -> None:
        super().__init__()
        if (config.space == "latent") != (vae is not None):
            raise ValueError(
                f"decoder: space {config.space!r} {'needs' if vae is None else 'does not use'} an autoencoder (vae)"
            )
        self.config = config
        self.unet = make_unet(config) if unet is None else unet
        self.vae = None if vae is None else vae.requires_grad_(False).eval()
        self.scheduler = make_scheduler(config) if scheduler is None else scheduler

    def train(self, mode: bool = True) -> "DiffusionDecoder":
        super().train(mode)
        if self.vae is not None:
            self.vae.eval()
        return self

    def loss(self, images_BCYX: Tensor, features_BZYX: Tensor, generator: torch.Generator) -> Tensor:
        """Mean denoising loss of images at the output size with the features of their codes."""
        return self.losses(images_BCYX, features_BZYX, generator).mean()

    def losses(
        self, images_BCYX: Tensor, features_BZYX: Tensor, generator: torch.Generator, *, last_level_share: float = 0.0
    ) -> Tensor:
        """Loss of each image [B] at a random noise level; features are perturbed as `config.perturbation` says.

        `last_level_share` of the images are at the last level, from which sampling begins, whatever was drawn.
        """
        height, width = images_BCYX.shape[2:]
        resolution = self._resolution(features_BZYX, height, width)
        clean = self._to_samples(images_BCYX)
        noise = _normal(clean.shape, generator).to(clean)
        schedule_S = self.scheduler.alphas_cumprod.to(clean.device)
        steps_B = torch.randint(len(schedule_S), (len(clean),), generator=generator, device=generator.device)
        if last_level_share:
            is_last_B = torch.rand(len(clean), generator=generator, device=generator.device) < last_level_share
            steps_B = steps_B.masked_fill(is_last_B, len(schedule_S) - 1)
        steps_B = steps_B.to(clean.device)
        alphas_B = schedule_S[steps_B].to(clean.dtype)
        signal, sigma = alphas_B.sqrt().view(-1, 1, 1, 1), (1 - alphas_B).sqrt().view(-1, 1, 1, 1)
        perturbed = perturb(features_BZYX, self.config.semantic_channels, self.config.perturbation, generator)
        inputs = torch.cat([signal * clean + sigma * noise, self._to_conditions(perturbed, clean)], dim=1)
        prediction = self.scheduler.config.prediction_type
        targets = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - sigma * clean}
        errors_B = (
            (predict(self.unet, inputs, steps_B, resolution).float() - targets[prediction].float())
            .square()
            .mean((1, 2, 3))
        )
        return errors_B * loss_weights(alphas_B.float(), prediction=prediction, min_snr=self.config.min_snr)

    def forward(self, images_BCYX: Tensor, features_BZYX: Tensor, generator: torch.Generator) -> Tensor:
        """`losses`, for wrappers that exchange gradients."""
        return self.losses(images_BCYX, features_BZYX, generator)

    @torch.no_grad()
    def sample(
        self,
        features_BZYX: Tensor,
        *,
        height: int,
        width: int,
        steps: int,
        guidance: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Images [B,3,height,width] in [-1, 1] for code features.

        Guidance above 1 mixes u + guidance (c - u), where u sees zeros instead of features.
        """
        resolution = self._resolution(features_BZYX, height, width)
        cell = self.config.cell_px
        shape = (len(features_BZYX), self.config.sample_channels, height // cell, width // cell)
        weight = next(self.unet.parameters())
        samples = _normal(torch.Size(shape), generator).to(weight)
        self.scheduler.set_timesteps(steps, device=weight.device)
        samples = samples * self.scheduler.init_noise_sigma
        conditions = self._to_conditions(features_BZYX, samples)
        has_guidance = guidance > 1
        if has_guidance:
            conditions = torch.cat([torch.zeros_like(conditions), conditions])
        for step in self.scheduler.timesteps:
            noisy = torch.cat([samples, samples]) if has_guidance else samples
            noisy = self.scheduler.scale_model_input(noisy, step)
            steps_B = step.to(weight.device).expand(len(noisy))
            predicted = predict(self.unet, torch.cat([noisy, conditions], dim=1), steps_B, resolution)
            if has_guidance:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + guidance * (conditional - unconditional)
            samples = self.scheduler.step(predicted, step, samples).prev_sample
        return self._to_images(samples).clamp(-1, 1)

    def _resolution(self, features_BZYX: Tensor, height: int, width: int) -> int:
        """Index of the output size in `config.outputs`. Raises: ValueError if absent or if the codes do not fit it."""
        config = self.config
        if features_BZYX.shape[1] != config.code_channels:
            raise ValueError(f"features: {features_BZYX.shape[1]} channels, expected {config.code_channels}")
        rows, columns = features_BZYX.shape[2:]
        side = config.code_px * config.enlarge
        if (height, width) != (rows * side, columns * side):
            raise ValueError(
                f"decoder: output of {height}x{width} (HxW) for {rows}x{columns} codes, "
                f"which give {rows * side}x{columns * side}"
            )
        if (height, width) not in config.outputs:
            known = ", ".join(f"{h}x{w}" for h, w in config.outputs)
            raise ValueError(f"decoder: cannot generate {height}x{width} (HxW); it was built for {known}")
        return config.outputs.index((height, width))

    def _to_conditions(self, features_BZYX: Tensor, samples_BCYX: Tensor) -> Tensor:
        """Features on the cells of the denoised array: those of each code are repeated over its cells."""
        conditions = F.interpolate(features_BZYX.float(), size=samples_BCYX.shape[2:], mode="nearest")
        return (self.config.feature_scale * conditions).to(samples_BCYX)

    def _to_samples(self, images_BCYX: Tensor) -> Tensor:
        """Images to the array that is denoised: latents, or pixels folded into cells."""
        if self.vae is None:
            return F.pixel_unshuffle(images_BCYX, self.config.cell_px)
        with torch.no_grad():
            latents = self.vae.encode(images_BCYX.to(self.vae.dtype)).latent_dist.mode()
        shift, scale = self._latent_statistics(latents)
        return (latents - shift) * scale

    def _to_images(self, samples_BCYX: Tensor) -> Tensor:
        if self.vae is None:
            return F.pixel_shuffle(samples_BCYX, self.config.cell_px)
        samples = samples_BCYX.to(self.vae.dtype)
        shift, scale = self._latent_statistics(samples)
        images: Tensor = self.vae.decode(samples / scale + shift).sample
        return images

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and factor that give latents about unit variance; per channel if the autoencoder states them."""
        assert self.vae is not None, "only in latent space"
        settings = self.vae.config
        if settings.latents_mean is not None and settings.latents_std is not None:
            mean = latents.new_tensor(settings.latents_mean).view(1, -1, 1, 1)
            deviation = latents.new_tensor(settings.latents_std).view(1, -1, 1, 1)
            return mean, settings.scaling_factor / deviation
        return latents.new_zeros(()), latents.new_tensor(settings.scaling_factor)


def make_scheduler(config: DecoderConfig) -> Any:
    """The solver of diffusers over 1,000 noise levels; spacing and offset are SDXL's unless the last is pure noise."""
    schedule = config.schedule
    kinds = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler}
    # Estimates of an image are in [-1, 1], those of latents are not.
    clips = {"clip_sample": config.space == "pixel", "set_alpha_to_one": True}
    extra: dict[str, Any] = clips if schedule.solver == "ddim" else {}
    return kinds[schedule.solver](
        num_train_timesteps=1000,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.betas,
        prediction_type=schedule.prediction,
        steps_offset=1,
        timestep_spacing="trailing" if schedule.zero_terminal_snr else "leading",
        rescale_betas_zero_snr=schedule.zero_terminal_snr,
        **extra,
    )


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
