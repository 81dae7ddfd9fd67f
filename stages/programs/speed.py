"""Measures steps of the language models on one device: `python -m stages.programs.speed`, some minutes on a GPU.

Prints tokens per second, the share of the device's peak (MFU) and the peak of its memory, next to what is expected.
On a CPU a model of a few thousand parameters shows that everything runs.
"""

import argparse
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from data_pipelines.training_data.packing import PackedSample, build_row
from models.dualvitok.config import PixelConfig, VisionConfig
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.cost import language_cost
from models.mllm.model import UnifiedMllm
from models.mllm.phases import find_phase, parameter_groups
from stages.programs.mllm import LanguagePass, packed_batch
from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution
from stages.training.program import MicroBatch, Pass
from stages.training.strategies.choice import make_strategy

PHASE = "stage2"
H200_PEAK = 989e12  # dense bf16 FLOPs per second, as of the H100
TINY = TextModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_key_value_heads=2, tie_embeddings=True
)
QWEN_3B = TextModelConfig(
    hidden_size=2048, intermediate_size=11008, num_layers=36, num_heads=16, num_key_value_heads=2, tie_embeddings=True
)
QWEN_7B = TextModelConfig(
    hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28, num_key_value_heads=4, tie_embeddings=False
)
DOCUMENTS = 8  # in a row


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured."""

    name: str
    text: TextModelConfig
    row_tokens: int
    recompute: bool
    expected: float  # share of the peak; 0: none
    states: Literal["fp32", "bf16"] = "fp32"  # of the optimizer


@dataclass(frozen=True, kw_only=True)
class Speed:
    tokens_per_s: float
    peak_share: float
    memory_gib: float  # peak; 0 on a CPU


TINY_SETUPS: tuple[Setup, ...] = (
    Setup(name="tiny", text=TINY, row_tokens=128, recompute=True, expected=0.0),
    Setup(name="tiny", text=TINY, row_tokens=128, recompute=False, expected=0.0),
    Setup(name="tiny", text=TINY, row_tokens=128, recompute=True, expected=0.0, states="bf16"),
)
SETUPS: tuple[Setup, ...] = (
    Setup(name="3B", text=QWEN_3B, row_tokens=4096, recompute=True, expected=0.45),
    Setup(name="3B", text=QWEN_3B, row_tokens=4096, recompute=False, expected=0.50),
    Setup(name="7B", text=QWEN_7B, row_tokens=4096, recompute=True, expected=0.50, states="bf16"),
)


class RandomRows:
    """`TrainingProgram` over rows of random text and image tokens."""

    def __init__(self, setup: Setup, device: torch.device) -> None:
        self._setup, self._device = setup, device
        self.config = model_config(setup.text)
        torch.manual_seed(0)
        with device:
            model = UnifiedMllm(self.config).train()
        if setup.recompute:
            model.language.activation_checkpointing_enable()
        groups = parameter_groups(model, find_phase(PHASE))
        self.passes = (
            Pass(name="language", module=LanguagePass(model), groups=groups, units=tuple(model.language.layers)),
        )
        self.weights = {"mllm": model}

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        tokens = self._setup.row_tokens
        ids = torch.randint(0, self.config.tokens.first_vision_id, (DOCUMENTS, tokens // DOCUMENTS)).numpy()
        row = build_row([PackedSample(ids=part, labels=part, images=()) for part in ids], row_tokens=tokens, pad_id=0)
        return MicroBatch(data=packed_batch([row]).to(self._device), weight=float(tokens), seed=step)


def model_config(text: TextModelConfig) -> MllmConfig:
    """The published tables for the published size; few rows for the tiny one."""
    first, semantic, pixel = (151_665, 32_768, 98_304) if text.hidden_size > TINY.hidden_size else (64, 32, 96)
    tokens = TokenTableConfig(
        first_vision_id=first, semantic_codes=semantic, pixel_codes=pixel, resolutions=(256, 512), rows=first + semantic
        + pixel + 256,
    )  # fmt: skip
    return MllmConfig(text=text, tokens=tokens, vision=VisionBranchConfig(tower=VisionConfig(), pixel=PixelConfig()))


def measure(setup: Setup, device: torch.device, *, steps: int, peak_flops: float = H200_PEAK) -> Speed:
    """Steps of one row each, after two that are not counted."""
    program = RandomRows(setup, device)
    optimizer = OptimizerConfig(states=setup.states)
    loop = LoopConfig(steps=steps + 2, micro_batches_per_step=1, seed=0, precision="bf16", optimizer=optimizer)
    worker = WorkerRank(rank=0, world_size=1, device=device)
    strategy = make_strategy(program, loop, TrainingExecution(), worker)
    batches = [program.micro_batch(step, 0) for step in range(steps + 2)]
    began = 0.0
    for step, batch in enumerate(batches):
        if step == 2:
            _synchronize(device)
            began = time.monotonic()
        for training_pass in program.passes:
            strategy.begin_step(training_pass, 1.0)
            strategy.micro_step(training_pass, batch, step=step, scale=1 / batch.weight, is_last=True)
            strategy.clip(training_pass)
            strategy.apply(training_pass)
    _synchronize(device)
    tokens_per_s = steps * setup.row_tokens / (time.monotonic() - began)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    share = tokens_per_s * flops_per_token(setup, program.config) / peak_flops
    return Speed(tokens_per_s=tokens_per_s, peak_share=share, memory_gib=memory)


def flops_per_token(setup: Setup, config: MllmConfig) -> float:
    """Of a training step without what is computed again: three times those forward, attention to own documents only."""
    document = setup.row_tokens // DOCUMENTS
    cost = language_cost(setup.text, rows=config.tokens.rows, tokens=document)
    return 3 * (cost.layer.flops * cost.num_layers + cost.head_flops) / document


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(device: torch.device, setups: tuple[Setup, ...], *, steps: int) -> str:
    titles = f"{'tokens/s':>12}{'of the peak':>13}{'expected':>10}{'GiB':>8}"
    lines = [f"{'model':8}{'row':>7}{'recompute':>11}{'states':>8}{titles}"]
    for setup in setups:
        found = measure(setup, device, steps=steps)
        expected = f"{setup.expected:.0%}" if setup.expected else "-"
        lines.append(
            f"{setup.name:8}{setup.row_tokens:>7,}{'full' if setup.recompute else 'none':>11}{setup.states:>8}"
            f"{found.tokens_per_s:>12,.0f}{found.peak_share:>13.1%}{expected:>10}{found.memory_gib:>8.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.programs.speed", description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--row-tokens", type=int, default=0, help="instead of 4,096")
    arguments = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    setups = SETUPS if device.type == "cuda" else TINY_SETUPS
    if arguments.row_tokens:
        setups = tuple(replace(setup, row_tokens=arguments.row_tokens) for setup in setups)
    print(table(device, setups, steps=arguments.steps))  # noqa: T201 - a front door


if __name__ == "__main__":
    main()
