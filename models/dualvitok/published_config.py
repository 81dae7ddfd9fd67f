"""Converts published configuration dictionaries, or shapes of published weights, to our configurations."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DiscriminatorConfig,
    DualViTokConfig,
    NoiseConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)

Shapes = Mapping[str, Sequence[int]]  # by name in the state dict

_NORM_GROUPS = 32  # published
_NOISE_KINDS: Mapping[str | None, Literal["random", "zero", "none"]] = {
    "random": "random",
    "zero": "zero",
    None: "none",
}


def config_from_published(vision: Mapping[str, Any], model: Mapping[str, Any]) -> DualViTokConfig:
    """Our configuration for a Qwen2-VL vision configuration and the `model` dictionary of a published tokenizer.

    Raises: ValueError if the dictionary uses something that the published model never uses (double z, plain
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
            kind=_NOISE_KINDS[model.get("pixel_noise_type")] if noisy else "none",
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


def config_from_shapes(shapes: Shapes) -> DualViTokConfig:
    """The configuration of weights in the published layout, for a state dict that comes without one.

    Shapes do not determine the number of heads (assumed: 16, as published, or the largest valid number below it), the
    groups of norms (32, or the largest valid number below it) and noise (none).
    Raises: ValueError that names the first tensor that is missing.
    """
    vision = tower_from_shapes(shapes, "semantic_encoder.model.")
    encoder = encoder_from_shapes(shapes)
    decoder = _convolutions_from_shapes(shapes, "pixel_decoder.up", extra_blocks=1)
    return DualViTokConfig(
        vision=vision,
        semantic=SemanticConfig(
            encoder=_blocks_from_shapes(shapes, "semantic_encoder"),
            decoder=_blocks_from_shapes(shapes, "semantic_decoder"),
            code_width=_shape(shapes, "semantic_quantizer.frozen_codebook")[1],
            codebook_size=_shape(shapes, "semantic_quantizer.frozen_codebook")[0],
        ),
        pixel=PixelConfig(
            encoder=encoder,
            decoder=decoder,
            norm_groups=norm_groups_for(*encoder.widths, *decoder.widths),
            code_width=_shape(shapes, "pixel_quantizer.frozen_codebook")[1],
            codebook_size=_shape(shapes, "pixel_quantizer.frozen_codebook")[0],
        ),
    )


def tower_from_shapes(shapes: Shapes, prefix: str) -> VisionConfig:
    """The vision tower below a prefix; see `config_from_shapes`."""
    width, channels, temporal_patch, patch, _ = _shape(shapes, f"{prefix}patch_embed.proj.weight")
    merged, _ = _shape(shapes, f"{prefix}merger.mlp.0.weight")
    return VisionConfig(
        depth=_count(shapes, rf"{re.escape(prefix)}blocks\.(\d+)\."),
        width=width,
        num_heads=_infer_num_heads(width),
        mlp_ratio=_shape(shapes, f"{prefix}blocks.0.mlp.fc1.weight")[0] // width,
        output_width=_shape(shapes, f"{prefix}merger.mlp.2.weight")[0],
        patch_px=patch,
        temporal_patch=temporal_patch,
        merge=round((merged // width) ** 0.5),
        channels=channels,
    )


def encoder_from_shapes(shapes: Shapes) -> ConvolutionsConfig:
    """The pixel encoder; see `config_from_shapes`."""
    return _convolutions_from_shapes(shapes, "pixel_encoder.down", extra_blocks=0)


def norm_groups_for(*widths: int) -> int:
    """The published number of groups, or the largest number below it that divides all widths."""
    return math.gcd(_NORM_GROUPS, *widths)


def discriminator_config_from_shapes(shapes: Shapes) -> DiscriminatorConfig:
    """The configuration of a PatchGAN in the published layout. Raises: ValueError for other shapes."""
    convolutions = _numbers((name for name, shape in shapes.items() if len(shape) == 4), r"main\.(\d+)\.weight")
    return DiscriminatorConfig(channels=_shape(shapes, "main.0.weight")[0], layers=len(convolutions) - 2)


def _blocks_from_shapes(shapes: Shapes, side: str) -> BlocksConfig:
    width = _shape(shapes, f"{side}.proj_in.weight")[0]
    return BlocksConfig(
        width=width,
        num_heads=_infer_num_heads(width),
        mlp_ratio=_shape(shapes, f"{side}.blocks.0.mlp.fc1.weight")[0] // width,
        depth=_count(shapes, rf"{side}\.blocks\.(\d+)\."),
    )


def _convolutions_from_shapes(shapes: Shapes, levels: str, *, extra_blocks: int) -> ConvolutionsConfig:
    level = re.escape(levels)
    numbers = range(_count(shapes, rf"{level}\.(\d+)\."))
    _shape(shapes, f"{levels}.0.block.0.conv2.weight")  # at least one level
    widths = [_shape(shapes, f"{levels}.{number}.block.0.conv2.weight")[0] for number in numbers]
    return ConvolutionsConfig(
        channels=widths[0],
        channel_multipliers=tuple(width // widths[0] for width in widths),
        residual_blocks=_count(shapes, rf"{level}\.0\.block\.(\d+)\.") - extra_blocks,
        attention_levels=tuple(sorted(_numbers(shapes, rf"{level}\.(\d+)\.attn\."))),
    )


def _infer_num_heads(width: int) -> int:
    """Raises: ValueError if no number of heads is valid for the width."""
    valid = [heads for heads in range(1, 17) if width % (4 * heads) == 0]
    if not valid:
        raise ValueError(f"a width of {width} has no heads of a multiple of 4; these are not weights of DualViTok")
    return valid[-1]


def _shape(shapes: Shapes, name: str) -> Sequence[int]:
    if name not in shapes:
        raise ValueError(f"{name}: no such tensor among {len(shapes)}; expected the published layout of DualViTok")
    return shapes[name]


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}


def _count(shapes: Shapes, pattern: str) -> int:
    return len(_numbers(shapes, pattern))
