"""What the training of the unified language model costs. An item is one packed row."""

import math
from dataclasses import dataclass, replace

from data_pipelines.images.model_input import InputSizes, grids, uncropped_size
from models.cost import Cost
from models.dualvitok.cost import pixel_encoder_cost, pixel_encoder_ends, tower_cost
from models.dualvitok.geometry import Size
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.cost import LanguageCost, chunk_bytes, language_cost, projector_cost
from models.mllm.vocabulary import VisionVocabulary
from orchestrator.cost import ConfigTree, CostFacts, PartCost, UnknownCostError
from stages.extend_vocabulary import ExtendVocabularyConfig
from stages.programs.image_costs import moment_bytes, tokenizer_config
from stages.programs.mllm_config import MllmExecution, TrainMllmConfig
from stages.training.strategies.mesh import divisors

_TEXT_TOKENS = 90  # of a sample, beside those of its images; captions and answers of the published mixture
_READING, _DRAWING = ("understanding", "editing"), ("generation", "editing")


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """What a packed row holds on average, from the mixture alone."""

    samples: float
    read_images: float
    size: Size  # of a read image, at the limit of its area


def mllm_cost(tree: ConfigTree, execution: MllmExecution) -> CostFacts:
    model, assumptions = model_config(tree)
    facts = mllm_facts(tree.config, model, recompute=execution.checkpoint_activations, assumptions=assumptions)
    return _of_parts(facts, execution.sequence_workers) if execution.sequence_workers > 1 else facts


def mllm_facts(
    config: TrainMllmConfig, model: MllmConfig, *, recompute: bool, assumptions: tuple[str, ...] = ()
) -> CostFacts:
    """The same of a model whose sizes are known."""
    tokens = config.data.row_tokens
    row = row_facts(config, model)
    micro_batches = config.loop.micro_batches_per_step
    rows = config.data.rows_per_step or max(micro_batches, round(config.data.samples_per_step / row.samples))
    language = language_cost(model.text, rows=model.tokens.rows, tokens=tokens)
    cells, codes = grids(row.size, model.vision.pixel.factor)
    projector = projector_cost(model, row.read_images * cells[0] * cells[1], row.read_images * codes[0] * codes[1])
    return CostFacts(
        steps=config.loop.steps,
        item=f"row of {tokens:,} tokens",
        items_per_step=rows,
        items_per_micro_batch=-(-rows // micro_batches),
        tokens_per_item=float(tokens),
        samples_per_item=row.samples,
        precision=config.loop.precision,
        parts=(
            *_language_parts(config, model, language),
            PartCost(
                name="projector",
                parameters=projector.parameters,
                trained_parameters=projector.parameters,
                forward_flops=projector.flops,
                training_passes=3.0,
                largest_unit=projector.parameters,
            ),
            *_vision_parts(config, model, row),
        ),
        recompute=recompute,
        moment_bytes=moment_bytes(config.loop),
        temporary_bytes=float(chunk_bytes(model)),
        input_bytes=row.read_images * row.size[0] * row.size[1] * 12 + tokens * 32,
        sharers=tuple(divisors(math.gcd(model.text.num_heads, tokens)))[1:],
        assumptions=(
            f"{row.samples:.3g} samples and {row.read_images:.3g} read images in a row: {_TEXT_TOKENS} tokens of text "
            "in a sample, images at the limit of their area",
            "all tokens of a row attend to one another, and all are trained: packed rows need less",
            *assumptions,
        ),
    )


def _of_parts(facts: CostFacts, workers: int) -> CostFacts:
    """The same training, whose items are the parts of rows that workers of a sequence group hold."""
    return replace(
        facts,
        item=f"1/{workers} of a {facts.item}",
        items_per_step=facts.items_per_step * workers,
        tokens_per_item=facts.tokens_per_item / workers,
        samples_per_item=facts.samples_per_item / workers,
        input_bytes=facts.input_bytes / workers,
        parts=tuple(
            replace(
                part,
                forward_flops=part.forward_flops / workers,
                saved_bytes=part.saved_bytes / workers,
                recomputed_bytes=part.recomputed_bytes / workers,
                unit_bytes=part.unit_bytes / workers,
            )
            for part in facts.parts
        ),
        assumptions=(*facts.assumptions, f"{workers} workers share each row; what they exchange for it is not counted"),
    )


def model_config(tree: ConfigTree) -> tuple[MllmConfig, tuple[str, ...]]:
    """The model's sizes, from this stage or from the one that it goes on from.

    Raises: UnknownCostError: it goes on from files whose sizes no config says.
    """
    tokenizer, sentence = tokenizer_config(tree.first("tokenizer") or tree)
    text, padded_rows = _text(tree)
    vision = VisionBranchConfig(tower=tokenizer.vision, pixel=tokenizer.pixel)
    vocabulary = tree.first("vocabulary")
    extended = vocabulary.config if vocabulary is not None else None
    if not isinstance(extended, ExtendVocabularyConfig):
        raise UnknownCostError("inputs.vocabulary: its config does not say the size of the vocabulary")
    found = VisionVocabulary(
        first_id=extended.first_id or extended.text_vocabulary,
        semantic_codes=tokenizer.semantic.codebook_size,
        pixel_codes=tokenizer.pixel.codebook_size,
        resolutions=tuple(extended.resolutions),
    )
    tokens = TokenTableConfig(
        first_vision_id=found.first_id,
        semantic_codes=found.semantic_codes,
        pixel_codes=found.pixel_codes,
        resolutions=found.resolutions,
        rows=max(padded_rows, found.total),
    )
    return MllmConfig(text=text, tokens=tokens, vision=vision), (sentence,) if sentence else ()


def row_facts(config: TrainMllmConfig, model: MllmConfig) -> RowFacts:
    """Counts tokens by the mixture's weights; the real ones are known when the index of the data is made."""
    limits = InputSizes(
        pixel_factor=model.vision.pixel.factor, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels
    )
    side = int(config.data.max_pixels**0.5)
    size = uncropped_size(side, side, limits)
    cells, codes = grids(size, limits.pixel_factor)
    block = _vocabulary(model.tokens).block_length(cells, codes)
    weight = sum(part.weight for part in config.data.parts)
    reading = sum(_share(part.tasks, _READING) * part.weight for part in config.data.parts) / weight
    drawing = sum(_share(part.tasks, _DRAWING) * part.weight for part in config.data.parts) / weight
    mean = _TEXT_TOKENS + (reading + drawing) * block
    samples = max(1.0, config.data.row_tokens / mean)
    return RowFacts(samples=samples, read_images=samples * reading, size=size)


def _vocabulary(tokens: TokenTableConfig) -> VisionVocabulary:
    return VisionVocabulary(
        first_id=tokens.first_vision_id,
        semantic_codes=tokens.semantic_codes,
        pixel_codes=tokens.pixel_codes,
        resolutions=tokens.resolutions,
    )


def _share(tasks: tuple[str, ...], wanted: tuple[str, ...]) -> float:
    return len(set(tasks) & set(wanted)) / len(tasks)


def _text(tree: ConfigTree) -> tuple[TextModelConfig, int]:
    level: ConfigTree | None = tree
    while level is not None:
        config = level.config
        if isinstance(config, TrainMllmConfig) and config.text is not None:
            return config.text, config.padded_rows
        level = level.first("start")
    raise UnknownCostError(
        "inputs.start: the model that this stage goes on from is adopted; its sizes are in its files"
    )


def _language_parts(config: TrainMllmConfig, model: MllmConfig, language: LanguageCost) -> tuple[PartCost, ...]:
    whole = config.phase != "stage1"  # stage 1 trains the rows of image tokens alone; gradients pass the layers
    layers = language.layer.times(language.num_layers) + language.final_norm
    vision_rows = model.tokens.rows - model.tokens.first_vision_id
    trained_rows = language.table_parameters if whole else vision_rows * model.text.hidden_size
    trained_share = trained_rows / language.table_parameters
    tied = model.text.tie_embeddings
    return (
        PartCost(
            name="language layers",
            parameters=layers.parameters,
            trained_parameters=layers.parameters if whole else 0,
            forward_flops=layers.flops,
            training_passes=3.0 if whole else 2.0,
            largest_unit=language.layer.parameters,
            frozen_bytes=_frozen_bytes(config),
            saved_bytes=layers.saved_bytes,
            recomputed_bytes=language.boundary_bytes * language.num_layers,
            unit_bytes=language.layer.saved_bytes,
        ),
        PartCost(
            name="token table",
            parameters=language.table_parameters,
            trained_parameters=trained_rows,
            forward_flops=language.head_flops if tied else 0.0,
            training_passes=2.0 + trained_share,
            largest_unit=language.table_parameters,
        ),
        *(
            [
                PartCost(
                    name="output table",
                    parameters=language.table_parameters,
                    trained_parameters=trained_rows,
                    forward_flops=language.head_flops,
                    training_passes=2.0 + trained_share,
                    largest_unit=language.table_parameters,
                )
            ]
            if not tied
            else []
        ),
    )


def _frozen_bytes(config: TrainMllmConfig) -> int:
    """Of a parameter of a frozen layer: its matrices are in the type of the computation."""
    return 2 if config.loop.precision == "bf16" else 4


def _vision_parts(config: TrainMllmConfig, model: MllmConfig, row: RowFacts) -> tuple[PartCost, ...]:
    """Frozen, or in stage 3 with the upper half of the tower and the ends of the pixel encoder in training."""
    tower = tower_cost(model.vision.tower, row.size)
    pixel = pixel_encoder_cost(model.vision.pixel, row.size)
    trains = config.phase == "stage3"
    lower = tower.num_blocks // 2
    upper = tower.block.times(tower.num_blocks - lower) + tower.merger
    frozen = tower.patches + tower.block.times(lower)
    trained_pixel = pixel_encoder_ends(model.vision.pixel).parameters if trains else 0

    def part(name: str, cost: Cost, trained: int, passes: float) -> PartCost:
        return PartCost(
            name=name,
            parameters=cost.parameters,
            trained_parameters=trained,
            forward_flops=cost.flops * row.read_images,
            training_passes=passes,
            largest_unit=cost.parameters,
            frozen_bytes=_frozen_bytes(config),
            saved_bytes=cost.saved_bytes * row.read_images if passes > 1 else 0.0,
        )

    return (
        part("vision tower, lower half", frozen, 0, 1.0),
        part("vision tower, upper half", upper, upper.parameters if trains else 0, 3.0 if trains else 1.0),
        part("pixel encoder", pixel, trained_pixel, 2.5 if trains else 1.0),
    )
