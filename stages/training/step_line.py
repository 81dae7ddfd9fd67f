"""The line that a training writes into its log every few seconds, and the figures in it."""

import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LINE_S = 10.0  # between two lines; a step that takes longer has its own
FIRST_STEPS = 3  # have a line each: whether a training begins well is seen at once

# Metrics of a step that are about its cost, see `metrics.py`.
WEIGHT_PER_S, DATA_WAIT_S, MEMORY_GIB = "weight_per_s", "data_wait_s", "memory_gib"
CHECKPOINT_WRITE_S = "checkpoint_write_s"  # of a step after which a checkpoint was found to be committed
SYSTEM = "system/"  # begins the names of metrics about the machine, as MLflow calls them


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """One optimizer step. None: not measured."""

    step: int
    steps: int  # of the whole training
    losses: Mapping[str, float]  # by pass
    learning_rates: Mapping[str, float]
    steps_per_s: float | None = None
    weight_per_s: float | None = None  # trained tokens, or images, of all workers
    memory_gib: float | None = None  # of rank 0: most of the accelerator so far, else of the process
    data_wait_s: float | None = None  # of rank 0: how long it waited for the step's data
    kinds: Mapping[str, float] = field(default_factory=dict)  # loss by kind of token
    sources: Mapping[str, float] = field(default_factory=dict)  # loss by source of the data
    validation: Mapping[str, float] = field(default_factory=dict)  # newest, by pass
    padding_share: float | None = None
    mfu: float | None = None
    median_s: float | None = None  # what workers need for their own part of a step
    slowest_s: float | None = None
    slowest: str = ""  # worker, and its node


def step_figures(step: int, steps: int, metrics: Mapping[str, float], nodes: Sequence[str] = ()) -> StepFigures:
    """From the metrics of a step, of which `<pass>/loss` and `<pass>/lr` belong to a pass. `nodes`: by rank."""

    def of_passes(metric: str) -> dict[str, float]:
        found = {name.removesuffix(metric): value for name, value in metrics.items() if name.endswith(metric)}
        return {name: value for name, value in found.items() if "/" not in name}

    def named(pattern: str) -> dict[str, float]:
        matches = ((re.fullmatch(pattern, name), value) for name, value in metrics.items())
        return {match[1]: value for match, value in matches if match}

    slowest = metrics.get("workers/slowest")
    node = nodes[int(slowest)] if slowest is not None and int(slowest) < len(nodes) else ""

    return StepFigures(
        step=step,
        steps=steps,
        losses=of_passes("/loss"),
        learning_rates=of_passes("/lr"),
        steps_per_s=metrics.get("steps_per_s"),
        weight_per_s=metrics.get(WEIGHT_PER_S),
        memory_gib=metrics.get(MEMORY_GIB),
        data_wait_s=metrics.get(DATA_WAIT_S),
        kinds=named(r"\w+/(\w+)_loss"),
        sources=named(r"\w+/loss_of/(.+)"),
        validation=named(r"validation/(\w+)/loss"),
        padding_share=metrics.get("padding_share"),
        mfu=metrics.get("mfu"),
        median_s=metrics.get("workers/own_step_s_median"),
        slowest_s=metrics.get("workers/own_step_s_slowest"),
        slowest="" if slowest is None else f"worker {slowest:.0f}" + (f" on {node}" if node else ""),
    )


def step_line(figures: StepFigures, *, unit: str = "tokens") -> str:
    """`step 120/2000, loss 2.31, lr 7.0e-04, 1.8 steps/s, 3,410 tokens/s, 0.61 GiB, data wait 0.002 s, 17 min left`."""
    parts = [
        f"step {figures.step}/{figures.steps}",
        *_of_passes("loss", figures.losses, "{:.4g}"),
        *_of_passes("by kind", figures.kinds, "{:.3g}", always_named=True),
        *_of_passes("by source", figures.sources, "{:.3g}", always_named=True),
        *_of_passes("validation loss", figures.validation, "{:.4g}"),
        *_of_passes("lr", figures.learning_rates, "{:.1e}"),
    ]
    if figures.steps_per_s is not None:
        parts.append(f"{figures.steps_per_s:.3g} steps/s")
    if figures.weight_per_s is not None:
        parts.append(f"{figures.weight_per_s:,.0f} {unit}/s")
    if figures.padding_share is not None:
        parts.append(f"padding {figures.padding_share:.0%}")
    if figures.mfu is not None:
        parts.append(f"MFU {figures.mfu:.1%}")
    if figures.memory_gib is not None:
        parts.append(f"{figures.memory_gib:.2f} GiB")
    if figures.data_wait_s is not None:
        parts.append(f"data wait {figures.data_wait_s:.3f} s")
    if figures.slowest_s is not None and figures.median_s is not None:
        parts.append(f"own part {figures.median_s:.3f} s, slowest {figures.slowest_s:.3f} s ({figures.slowest})")
    if figures.steps_per_s:
        parts.append(f"{_duration((figures.steps - figures.step) / figures.steps_per_s)} left")
    return ", ".join(parts)


class LinePace:
    """Decides which steps have a line: the first ones, the last, and one every `LINE_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at = float("-inf")
        self._num_lines = 0

    def is_due(self, *, is_last: bool) -> bool:
        now = self._clock()
        if not is_last and self._num_lines >= FIRST_STEPS and now - self._logged_at < LINE_S:
            return False
        self._logged_at, self._num_lines = now, self._num_lines + 1
        return True


def process_memory_gib() -> float:
    """The most memory that this process had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**3 if sys.platform == "darwin" else 1024**2)


def _of_passes(name: str, values: Mapping[str, float], form: str, *, always_named: bool = False) -> list[str]:
    """`loss 2.31` of one pass; `loss generator 2.31, discriminator 0.4` of several."""
    if len(values) == 1 and not always_named:
        return [f"{name} {form.format(value)}" for value in values.values()]
    shown = ", ".join(f"{key} {form.format(value)}" for key, value in values.items())
    return [f"{name} {shown}"] if shown else []


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
