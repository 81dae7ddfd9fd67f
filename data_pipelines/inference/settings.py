"""How the models of a run are used: the sampling of the language model and the steps of the decoder."""

from dataclasses import dataclass

from models.mllm.config import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    understanding: SamplingConfig
    generation: SamplingConfig
    editing: SamplingConfig
    diffusion_steps: int
    diffusion_guidance: float


def published_settings() -> InferenceSettings:
    """The settings of the published models."""
    return InferenceSettings(
        understanding=SamplingConfig.published_understanding(),
        generation=SamplingConfig.published_generation(),
        editing=SamplingConfig.published_editing(),
        diffusion_steps=50,
        diffusion_guidance=2.0,
    )
