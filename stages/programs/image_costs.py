"""What the trainings on images cost: tokenizer, diffusion decoder and vision tower. An item is one image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.cost import Cost, linear, total
from models.diffusion.cost import autoencoder_cost, unet_cost
from models.dualvitok.config import DualViTokConfig
from models.dualvitok.cost import (
    cell_count,
    discriminator_flops,
    discriminator_parameters,
    pixel_decoder_cost,
    pixel_encoder_cost,
    quantizer_cost,
    semantic_coder_costs,
    tower_block,
    tower_cost,
)
from models.dualvitok.geometry import Size
from orchestrator.cost import ConfigTree, CostFacts, PartCost, UnknownCostError
from stages.programs.decoder_config import TrainDecoderConfig
from stages.programs.tokenizer_config import TrainTokenizerConfig
from stages.programs.vision_config import TrainVisionConfig
from stages.training.config import LoopConfig, TrainingExecution

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # widths and convolutions of the stages that LPIPS reads
_PIXEL_BYTES = 12  # of an image on the device: three channels in fp32
_FULL_PASSES = 3.0
_ADVERSARIAL_PASSES = 8.0  # real and reconstructed images train the discriminator, and the generator's pass reads it


def tokenizer_cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    return tokenizer_facts(tree.config, anchors_of(tree, "datasets"))


def tokenizer_facts(config: TrainTokenizerConfig, sizes: Sequence[Size]) -> CostFacts:
    """The same for images of known sizes."""
    model = config.model
    adversarial = max(0, config.loop.steps - config.loss.adversarial_start_step + 1) / config.loop.steps
    gan, gan_layers = config.discriminator.channels, config.discriminator.layers
    parts = [
        _part("vision tower", sizes, lambda size: tower_cost(model.vision, size).whole, trained=False),
        _part("semantic coders", sizes, lambda size: total(*semantic_coder_costs(model, size))),
        _part("pixel encoder", sizes, lambda size: pixel_encoder_cost(model.pixel, size)),
        _part("quantizers", sizes, lambda size: _quantizers(model, size)),
        _part("pixel decoder", sizes, lambda size: pixel_decoder_cost(model.pixel, size, model.code_channels)),
    ]
    if adversarial and config.loss.adversarial_weight > 0:
        parameters = discriminator_parameters(gan, gan_layers)
        flops = sum(discriminator_flops(gan, gan_layers, size) for size in sizes) / len(sizes)
        parts.append(
            PartCost(
                name="discriminator",
                parameters=parameters,
                trained_parameters=parameters,
                forward_flops=flops,
                training_passes=_ADVERSARIAL_PASSES * adversarial,
                largest_unit=parameters,
            )
        )
    if config.loss.perceptual == "lpips":
        parts.append(_part("perceptual network", sizes, _vgg16, trained=False, passes=_FULL_PASSES))
    return _image_facts(config.loop, config.batch, sizes, parts)


def decoder_cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    return decoder_facts(tree.config, anchors_of(tree, "datasets"))


def decoder_facts(config: TrainDecoderConfig, sizes: Sequence[Size]) -> CostFacts:
    """The same for images of known sizes."""
    enlarge = config.model.enlarge
    sizes = [(height * enlarge, width * enlarge) for height, width in sizes]
    parts = [_part("denoising network", sizes, lambda size: unet_cost(config.model, size))]
    if config.model.space == "latent":
        parts.append(_part("autoencoder", sizes, autoencoder_cost, trained=False))
    return _image_facts(config.loop, config.batch, sizes, parts)


def vision_cost(tree: ConfigTree, execution: TrainingExecution) -> CostFacts:
    return vision_facts(tree.config, anchors_of(tree, "datasets"))


def vision_facts(config: TrainVisionConfig, sizes: Sequence[Size]) -> CostFacts:
    """The same for images of known sizes."""
    model = config.model
    text = total(
        Cost(parameters=(model.vocabulary_size + model.max_tokens) * model.text_width),
        tower_block(model.max_tokens, model.text_width, 4).times(model.text_depth),
    )
    heads = linear(1, model.vision.output_width, model.embedding_width, bias=False) + linear(
        1, model.text_width, model.embedding_width, bias=False
    )
    parts = [
        _part("vision tower", sizes, lambda size: tower_cost(model.vision, size).whole),
        _part("text encoder", sizes, lambda _size: text + heads),
    ]
    return _image_facts(config.loop, config.batch, sizes, parts)


def step_flops(facts: Callable[[Sequence[Size]], CostFacts], anchors: Mapping[Size, int]) -> float:
    """Of an optimizer step over all workers. `anchors`: how many images there are of each size."""
    found = {size: facts([size]) for size in anchors}
    total = sum(count * found[size].training_flops * found[size].items_per_step for size, count in anchors.items())
    return total / sum(anchors.values())


def anchors_of(tree: ConfigTree, slot: str) -> list[Size]:
    """The sizes (height, width) of the images in a stage's datasets, as their configs say.

    Raises: UnknownCostError: no dataset says its sizes.
    """
    sizes = [
        (int(height), int(width))
        for dataset in tree.inputs.get(slot, ())
        for height, width in getattr(dataset.config, "anchors", ())
    ]
    if not sizes:
        raise UnknownCostError(f"inputs.{slot}: no dataset names the sizes of its images (anchors)")
    return sizes


def _part(
    name: str,
    sizes: Sequence[Size],
    cost: Callable[[Size], Cost],
    *,
    trained: bool = True,
    passes: float | None = None,
) -> PartCost:
    """FLOPs are the mean over all sizes, bytes those of the largest, which decides whether a step fits."""
    costs = [cost(size) for size in sizes]
    parameters = costs[0].parameters
    return PartCost(
        name=name,
        parameters=parameters,
        trained_parameters=parameters if trained else 0,
        forward_flops=sum(found.flops for found in costs) / len(costs),
        training_passes=passes or (_FULL_PASSES if trained else 1.0),
        largest_unit=parameters,
        saved_bytes=max(found.saved_bytes for found in costs) if trained else 0.0,
    )


def _image_facts(loop: LoopConfig, batch: int, sizes: Sequence[Size], parts: Sequence[PartCost]) -> CostFacts:
    pixels = [height * width for height, width in sizes]
    several = f"images of {len(sizes)} sizes, the largest" if len(set(sizes)) > 1 else "image of"
    height, width = sizes[pixels.index(max(pixels))]
    return CostFacts(
        steps=loop.steps,
        item=f"{several} {height} x {width} px",
        items_per_step=batch * loop.micro_batches_per_step,
        items_per_micro_batch=batch,
        tokens_per_item=0.0,
        samples_per_item=1.0,
        precision=loop.precision,
        parts=tuple(parts),
        recompute=False,
        moment_bytes=moment_bytes(loop),
        input_bytes=float(_PIXEL_BYTES * max(pixels)),
        assumptions=("all sizes of images are equally frequent",) if len(set(sizes)) > 1 else (),
    )


def moment_bytes(loop: LoopConfig) -> int:
    """Of each of the optimizer's two moments of a parameter."""
    return 2 if loop.optimizer.states == "bf16" else 4


def _quantizers(model: DualViTokConfig, size: Size) -> Cost:
    codes = size[0] * size[1] // model.pixel.factor**2
    return total(
        quantizer_cost(model.semantic.code_width, cell_count(size), model.semantic.codebook_size),
        quantizer_cost(model.pixel.code_width, codes, model.pixel.codebook_size),
        linear(codes, model.pixel.code_width, model.pixel.code_width),
        linear(codes, model.code_channels, model.code_channels),
    )


def _vgg16(size: Size) -> Cost:
    from models.cost import convolution

    pixels, before, layers = size[0] * size[1], 3, []
    for width, count in _VGG16:
        for _ in range(count):
            layers.append(convolution(pixels, before, width))
            before = width
        pixels //= 4
    return total(*layers)


def tokenizer_config(tree: ConfigTree) -> tuple[DualViTokConfig, Any]:
    """The tokenizer's sizes and a sentence about where they come from if no config says them."""
    model = getattr(tree.config, "model", None)
    if isinstance(model, DualViTokConfig):
        return model, None
    return DualViTokConfig.published(), "the adopted tokenizer has the published sizes"
