"""Compares encoding of images with a plain version of the published loop: equal codes, images per second.

Run: python tests/benchmarks/bench_encode.py [--size 256] [--batches 1,8,16] [--device cpu] [--published] [--compile]
The plain loop does what the published code does: the tower reads the whole batch as one sequence with a dense mask, all
distances to a third of the codebook exist at once, and the effective codebook is computed again in each call.
Default widths are those of the baseline in the facts (section 9); `--published` takes all 1.3 billion parameters.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import click
import torch
import torch.nn.functional as F
from torch import Tensor
from turns import print_rates, seconds_in_turns

from models.check.formulas import formula_images
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.geometry import semantic_grid
from models.dualvitok.model import Codes, DualViTok
from models.dualvitok.pixel import Downsample, Level, PixelEncoder, ResidualBlock
from models.dualvitok.quantizer import SimVQ
from models.dualvitok.semantic import semantic_target, tokens_to_map
from models.dualvitok.vision_tower import (
    VisionBlock,
    VisionTower,
    images_to_patches,
    merged_positions,
    raster_positions,
    rotary_angles,
    rotate,
)

PUBLISHED_BLOCK = 32_768  # codes whose distances exist at once in the published search


def reduced_config() -> DualViTokConfig:
    """The baseline's sizes: a tower of 4 layers of 320 channels, convolutions of 32, full codebooks."""
    blocks = BlocksConfig(width=320, num_heads=16, depth=4)
    return DualViTokConfig(
        vision=VisionConfig(depth=4, width=320, num_heads=4),
        semantic=SemanticConfig(encoder=blocks, decoder=BlocksConfig(width=64, num_heads=16, depth=1)),
        pixel=PixelConfig(encoder=ConvolutionsConfig(channels=32), decoder=ConvolutionsConfig(channels=32)),
    )


def plain_attention(block: VisionBlock, x_TD: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    """One block over a sequence [1, T, D]; the mask keeps images apart."""
    attention = block.attn
    normed = block.norm1(x_TD)
    batch, tokens, width = normed.shape
    q, k, v = attention.qkv(normed).view(batch, tokens, 3, attention.num_heads, -1).unbind(2)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), attn_mask=mask)
    x_TD = x_TD + attention.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
    return x_TD + block.mlp(block.norm2(x_TD))


def plain_tower(tower: VisionTower, images: Tensor) -> Tensor:
    """The whole batch as one sequence: the cost of attention grows with its square."""
    patches, (rows, columns) = images_to_patches(images, tower.config)
    batch, tokens = patches.shape[:2]
    x = tower.patch_embed(patches.reshape(1, batch * tokens, -1))
    row, column = merged_positions(rows, columns, tower.config.merge, images.device)
    angles = rotary_angles(row.repeat(batch), column.repeat(batch), tower.config.width // tower.config.num_heads)
    image = torch.arange(batch, device=images.device).repeat_interleave(tokens)
    mask = (image[:, None] == image[None, :])[None]
    for block in tower.blocks:
        x = plain_attention(block, x, *angles, mask)
    return tower.merger(x.reshape(batch, tokens, -1))


def plain_residual(block: ResidualBlock, x: Tensor) -> Tensor:
    hidden = block.conv1(F.silu(block.norm1(x)))
    hidden = block.conv2(F.silu(block.norm2(hidden)))
    return hidden + (x if block.nin_shortcut is None else block.nin_shortcut(x))


def plain_downsample(layer: Downsample, x: Tensor) -> Tensor:
    """The published shortcut: pixel-unshuffle, then means of four consecutive channels."""
    batch, channels, rows, columns = x.shape
    means = F.pixel_unshuffle(x, 2).view(batch, channels, 4, rows // 2, columns // 2).mean(2)
    return F.pixel_unshuffle(layer.conv(x), 2) + means


def plain_level(level: Level, x: Tensor) -> Tensor:
    for index, block in enumerate(level.block):
        x = plain_residual(block, x)
        if level.attn:
            x = level.attn[index](x)
    return x if level.downsample is None else plain_downsample(level.downsample, x)


def plain_pixels(encoder: PixelEncoder, images: Tensor) -> Tensor:
    x = encoder.conv_in(images)
    for level in encoder.down:
        x = plain_level(level, x)
    x = plain_residual(encoder.mid.block_1, x)
    x = plain_residual(encoder.mid.block_2, encoder.mid.attn_1(x))
    x = F.silu(encoder.norm_out(x))
    batch, channels, rows, columns = x.shape
    return encoder.conv_out(x) + x.view(batch, -1, channels // encoder.code_width, rows, columns).mean(2)


def plain_nearest(quantizer: SimVQ, latents: Tensor) -> Tensor:
    """`torch.cdist` to blocks of the recomputed codebook; the minimum of each block, then the minimum of all."""
    batch, width, rows, columns = latents.shape
    flat = latents.permute(0, 2, 3, 1).reshape(-1, width)
    codebook = quantizer.code_transform(quantizer.frozen_codebook)
    least = [torch.cdist(flat, block).min(dim=1) for block in codebook.split(PUBLISHED_BLOCK)]
    best = torch.stack([values for values, _ in least]).argmin(dim=0)
    indices = torch.stack([indices for _, indices in least])
    found = indices.gather(0, best[None])[0] + best * PUBLISHED_BLOCK
    return found.view(batch, rows, columns)


def plain_encode(model: DualViTok, images: Tensor) -> Codes:
    """Codes as computed by the published code."""
    encoder = model.semantic_encoder
    grid = semantic_grid(images.shape[2], images.shape[3])
    x = semantic_target(plain_tower(encoder.model, images))
    x = F.linear(x, encoder.proj_in.weight.flatten(1), encoder.proj_in.bias)
    angles = rotary_angles(*raster_positions(*grid, images.device), x.shape[-1] // encoder.num_heads)
    for block in encoder.blocks:
        x = plain_attention(block, x, *angles, None)
    latents = tokens_to_map(encoder.proj_out(x), grid)
    return Codes(
        semantic_BYX=plain_nearest(model.semantic_quantizer, latents),
        pixel_BYX=plain_nearest(
            model.pixel_quantizer, model.pixel_quant_conv(plain_pixels(model.pixel_encoder, images))
        ),
    )


def share_of_equal_codes(found: Codes, expected: Codes) -> str:
    shares = [
        (ours == theirs).double().mean().item()
        for ours, theirs in (
            (found.semantic_BYX, expected.semantic_BYX),
            (found.pixel_BYX, expected.pixel_BYX),
        )
    ]
    return f"semantic {shares[0]:.4%}, pixel {shares[1]:.4%}"


def synchronized(device: str, encode: Callable[[Tensor], Codes], images: Tensor) -> Codes:
    """Codes, after the device has finished computing them."""
    found = encode(images)
    if device != "cpu":
        torch.cuda.synchronize()
    return found


@click.command()
@click.option("--size", default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--batches", default="1,8,16", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--published", is_flag=True, help="All 1.3 billion parameters instead of the reduced widths.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True, help="On a CPU.")
@click.option("--compile", "compiled", is_flag=True, help="Also with torch.compile, which takes minutes at first.")
def main(size: int, batches: str, device: str, published: bool, repeats: int, threads: int, compiled: bool) -> None:
    """Print images per second and the share of equal codes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = [int(number) for number in batches.split(",")]
    with torch.device(device), torch.inference_mode():
        model = DualViTok(DualViTokConfig.published() if published else reduced_config()).eval()
    half = DualViTok(model.config).eval().to(device=device)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16)
    compiled_model = deepcopy(model)
    compiled_model.compile_encoders()
    with torch.inference_mode():
        for batch in sizes:
            images = formula_images(size, size, range(batch)).to(device)
            runs = {
                f"published way, fp32, batch {batch}": partial(plain_encode, model),
                f"here, fp32, batch {batch}": model.encode,
                f"here, bf16, batch {batch}": lambda images: half.encode(images.bfloat16()),
            }
            if compiled:
                runs[f"here, fp32, compiled, batch {batch}"] = compiled_model.encode
            measures = {name: partial(synchronized, device, encode, images) for name, encode in runs.items()}
            seconds = seconds_in_turns(measures, repeats)
            base = next(iter(runs))
            print_rates(f"{size}x{size}, {device}", dict.fromkeys(runs, float(batch)), seconds, "images/s", base)
            expected = plain_encode(model, images)
            for name, encode in list(runs.items())[1:]:
                click.echo(f"  equal codes: {name}: {share_of_equal_codes(encode(images), expected)}")


if __name__ == "__main__":
    main()
