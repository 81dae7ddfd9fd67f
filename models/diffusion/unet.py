"""Builds the networks of diffusers from our configuration, and calls both kinds in the same way.

Letters: B batch, C channels, Y X cells of the denoised array.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from models.diffusion.config import (
    NUM_TIME_IDS,
    POOLED_WIDTH,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TIME_ID_WIDTH,
    DecoderConfig,
)


def make_unet(config: DecoderConfig) -> nn.Module:
    """The network of the configuration, with random weights."""
    return _make_sdxl(config) if config.unet.kind == "sdxl" else _make_plain(config)


def unet_blocks(unet: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks of a network of `make_unet`, which hold nearly all of its parameters, in the order of their use."""
    found = [*unet.children()]
    lists = [module for module in found if isinstance(module, nn.ModuleList)]
    assert len(lists) == 2, "blocks down and up"
    middle = [module for name, module in unet.named_children() if name == "mid_block" and module is not None]
    return (*lists[0], *middle, *lists[1])


def unet_layers(unet: nn.Module) -> tuple[nn.Module, ...]:
    """The residual and transformer layers inside of its blocks, which keep nearly all activations."""
    return tuple(module for module in unet.modules() if isinstance(module, ResnetBlock2D | BasicTransformerBlock))


def start_with_even_cells(unet: nn.Module, cell_px: int) -> None:
    """Let the last layer begin with equal values for all pixels of a cell, as of an image of larger pixels.

    With a filter of its own for each pixel, a short training leaves a pattern of dots with the period of a cell.
    Source: Aitken et al., arXiv 1707.02937, section 3.2.
    """
    layer = unet.conv_out
    assert isinstance(layer, nn.Conv2d), "of both kinds of networks"
    for parameter in layer.parameters():
        first = parameter.detach()[:: cell_px**2]
        parameter.data.copy_(first.repeat_interleave(cell_px**2, dim=0))


def predict(unet: nn.Module, inputs_BCYX: Tensor, steps_B: Tensor, resolution: int) -> Tensor:
    """The network's prediction [B,C,Y,X] for noisy samples with code features as further channels."""
    batch = len(inputs_BCYX)
    if isinstance(unet, UNet2DModel):
        labels_B = torch.full((batch,), resolution, device=inputs_BCYX.device)
        plain: Tensor = unet(inputs_BCYX, steps_B, class_labels=labels_B).sample
        return plain
    time_ids = inputs_BCYX.new_zeros(batch, NUM_TIME_IDS)
    time_ids[:, -1] = resolution
    conditions = {"text_embeds": inputs_BCYX.new_zeros(batch, POOLED_WIDTH), "time_ids": time_ids}
    text = inputs_BCYX.new_zeros(batch, TEXT_TOKENS, TEXT_WIDTH)
    predicted: Tensor = unet(inputs_BCYX, steps_B, encoder_hidden_states=text, added_cond_kwargs=conditions).sample
    return predicted


def _common(config: DecoderConfig) -> dict[str, Any]:
    return {
        "in_channels": config.sample_channels + config.code_channels,
        "out_channels": config.sample_channels,
        "block_out_channels": config.unet.widths,
        "layers_per_block": config.unet.residual_blocks,
        "norm_num_groups": config.unet.norm_groups,
        "sample_size": max(config.outputs[0]) // config.cell_px,
    }


def _blocks(config: DecoderConfig, attention: str) -> dict[str, tuple[str, ...]]:
    kinds = [attention if layers else "" for layers in config.unet.transformer_layers]
    return {
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
    }


def _make_sdxl(config: DecoderConfig) -> nn.Module:
    unet: nn.Module = UNet2DConditionModel(
        **_common(config),
        **_blocks(config, "CrossAttn"),
        # diffusers calls the number of heads "attention_head_dim" here
        attention_head_dim=tuple(max(1, width // config.unet.head_width) for width in config.unet.widths),
        transformer_layers_per_block=tuple(max(1, layers) for layers in config.unet.transformer_layers),
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=NUM_TIME_IDS * TIME_ID_WIDTH + POOLED_WIDTH,
    )
    return unet


def _make_plain(config: DecoderConfig) -> nn.Module:
    unet: nn.Module = UNet2DModel(
        **_common(config),
        **_blocks(config, "Attn"),
        attention_head_dim=config.unet.head_width,
        num_class_embeds=len(config.outputs),
        add_attention=config.unet.transformer_layers[-1] > 0,
    )
    return unet
