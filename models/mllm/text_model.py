"""Converts the decoder's sizes to and from the configuration of transformers."""

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config

from models.mllm.config import TextModelConfig
from models.strict_weights import WeightsError

_ROPE_THETA = 1_000_000.0  # of Qwen2.5, for configurations without it


def qwen2_config(config: TextModelConfig, *, rows: int, **more: Any) -> Qwen2Config:
    """The configuration of transformers' Qwen2 with token tables of `rows` rows."""
    return Qwen2Config(
        vocab_size=rows,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.rms_norm_eps,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_embeddings,
        **more,
    )


def text_config_to_published(config: TextModelConfig, *, rows: int) -> dict[str, Any]:
    """`config.json` of a Hugging Face folder."""
    settings: dict[str, Any] = qwen2_config(config, rows=rows).to_dict()
    return settings


def text_config_from_published(settings: Mapping[str, Any], *, where: str) -> TextModelConfig:
    """The sizes in the `config.json` of Qwen2 or of a model built on it. Raises: WeightsError."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise WeightsError(f"{where}: rotary positions of type {rope!r}; only the default type is supported")
    try:
        return TextModelConfig(
            hidden_size=settings["hidden_size"],
            intermediate_size=settings["intermediate_size"],
            num_layers=settings["num_hidden_layers"],
            num_heads=settings["num_attention_heads"],
            num_key_value_heads=settings["num_key_value_heads"],
            tie_embeddings=settings["tie_word_embeddings"],
            max_positions=settings["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta", settings.get("rope_theta", _ROPE_THETA))),
            rms_norm_eps=settings["rms_norm_eps"],
            initializer_range=settings.get("initializer_range", 0.02),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {error!r}; expected the configuration of a Qwen2 model") from error
