"""The published configuration dictionaries as a `DualViTokConfig`."""

from collections.abc import Mapping
from typing import Any

from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    NoiseConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)

_NOISE_KINDS = {"random": "random", "zero": "zero", None: "none"}


def config_from_published(vision: Mapping[str, Any], model: Mapping[str, Any]) -> DualViTokConfig:
    """Ours for a Qwen2-VL vision configuration and the `model` dictionary of a published tokenizer configuration.

    Raises: ValueError if the dictionary asks for something that the published model never uses (double z, plain
    resamplers, dropout, rotation trick).
    """
    encoder, decoder = model["pixel_encoder"], model["pixel_decoder"]
    _refuse_unused_features(model)
    noisy = bool(model.get("pixel_drop_rate")) and bool(model.get("pixel_drop_batch_rate"))
    return DualViTokConfig(
        vision=VisionConfig(
            depth=vision["depth"],
            width=vision["embed_dim"],
            num_heads=vision["num_heads"],
            mlp_ratio=vision["mlp_ratio"],
            output_width=vision["hidden_size"],
            patch_px=vision["patch_size"],
            temporal_patch=vision["temporal_patch_size"],
            merge=vision["spatial_merge_size"],
            channels=vision["in_channels"],
        ),
        semantic=SemanticConfig(
            encoder=_blocks(model["semantic_encoder"]),
            decoder=_blocks(model["semantic_decoder"]),
            code_width=model["semantic_quantizer"]["dim"],
            codebook_size=model["semantic_quantizer"]["codebook_size"],
        ),
        pixel=PixelConfig(
            encoder=_convolutions(encoder),
            decoder=_convolutions(decoder),
            code_width=model["pixel_quantizer"]["dim"],
            codebook_size=model["pixel_quantizer"]["codebook_size"],
        ),
        noise=NoiseConfig(
            kind=_NOISE_KINDS[model.get("pixel_noise_type")] if noisy else "none",  # type: ignore[arg-type]  # a literal by the table
            sample_share=model.get("pixel_drop_batch_rate") or 0.0,
            token_share=model.get("pixel_drop_rate") or 0.0,
        ),
    )


def _blocks(side: Mapping[str, Any]) -> BlocksConfig:
    return BlocksConfig(width=side["embed_dim"], depth=side["num_blocks"])


def _convolutions(side: Mapping[str, Any]) -> ConvolutionsConfig:
    return ConvolutionsConfig(
        channels=side["ch"],
        channel_multipliers=tuple(side["ch_mult"]),
        residual_blocks=side["num_res_blocks"],
        attention_levels=tuple(side["attn_resolutions"]),  # levels, in spite of the name
    )


def _refuse_unused_features(model: Mapping[str, Any]) -> None:
    for name in ("pixel_encoder", "pixel_decoder"):
        side = model[name]
        if side["double_z"] or side["dropout"] or not side["use_dc_up_down_blocks"]:
            raise ValueError(f"{name}: double_z, dropout and plain resampling are not part of the published model")
    for name in ("semantic_quantizer", "pixel_quantizer"):
        if model[name]["type"] != "SimVQ" or model[name].get("rotation_trick"):
            raise ValueError(f"{name}: only SimVQ without the rotation trick is part of the published model")
