"""What the unified language model costs. Letters: h hidden size, f width of the MLP, s tokens of a row."""

from dataclasses import dataclass

from models.cost import Cost, linear, norm, total
from models.mllm.config import MllmConfig, TextModelConfig

_BYTES_PER_HIDDEN = 32  # kept of each token by one layer, whose residual stream is fp32, for each hidden channel,
_BYTES_PER_KEY_VALUE = 4  # each channel of the keys,
_BYTES_PER_MLP = 8  # each channel of the MLP,
_BYTES_PER_HEAD = 4  # each head (the log-sum of its scores),
_BYTES_PER_TOKEN = 8  # and once
_BOUNDARY_BYTES = 4  # of each hidden channel, when a layer is recomputed: its input in fp32
_SCORE_BYTES = 14  # of each score while its chunk's loss is computed: logits, their fp32 copy, and gradients


@dataclass(frozen=True, kw_only=True)
class LanguageCost:
    """Of one row of s tokens that all attend to all before them, which packed rows of several samples do not."""

    layer: Cost
    num_layers: int
    final_norm: Cost
    boundary_bytes: float  # kept of a layer that is recomputed
    table_parameters: int  # of one token table
    head_flops: float


def language_cost(text: TextModelConfig, *, rows: int, tokens: int) -> LanguageCost:
    hidden, keys = text.hidden_size, text.hidden_size // text.num_heads * text.num_key_value_heads
    layer = total(
        norm_without_shift(hidden).times(2),
        linear(tokens, hidden, hidden),
        linear(tokens, hidden, keys).times(2),
        linear(tokens, hidden, hidden, bias=False),
        linear(tokens, hidden, text.intermediate_size, bias=False).times(2),
        linear(tokens, text.intermediate_size, hidden, bias=False),
        Cost(flops=4 * tokens * tokens * hidden),
    )
    kept = (
        _BYTES_PER_HIDDEN * hidden
        + _BYTES_PER_KEY_VALUE * keys
        + _BYTES_PER_MLP * text.intermediate_size
        + _BYTES_PER_HEAD * text.num_heads
        + _BYTES_PER_TOKEN
    )
    return LanguageCost(
        layer=layer.keeping(kept * tokens),
        num_layers=text.num_layers,
        final_norm=norm_without_shift(hidden),
        boundary_bytes=_BOUNDARY_BYTES * hidden * tokens,
        table_parameters=rows * hidden,
        head_flops=2 * tokens * hidden * rows,
    )


def projector_cost(config: MllmConfig, cells: float, codes: float) -> Cost:
    """Both MLPs, on the positions of the images of a row."""
    hidden = config.text.hidden_size
    semantic, pixel = config.vision.tower.output_width, config.vision.pixel.code_width
    return total(
        linear(cells, semantic, hidden),
        linear(cells, hidden, hidden),
        linear(codes, pixel, hidden),
        linear(codes, hidden, hidden),
    )


def chunk_bytes(config: MllmConfig) -> int:
    """Of the scores of one chunk of the loss, which exist at once beside the activations."""
    return _SCORE_BYTES * config.loss_chunk_bytes // 4


def norm_without_shift(width: int) -> Cost:
    return Cost(parameters=norm(width).parameters // 2)
