"""Which parameters train in which phase, as data: patterns over names, each with the group that sets the learning rate.

Every parameter must match exactly one rule of a phase, or the phase is refused.
Source: ILLUME+ (arXiv 2504.01934) table 1 and the released stage-3 configurations. Each group's rate is applied (the
released code uses the vision rate only when another one is also set).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from models.errors import DataError
from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import VisionBranch


class PhaseError(DataError):
    """A phase that does not match the model's parameters or the given learning rates."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A full-match pattern over parameter names. `half` limits it to the lower or upper half of the tower's blocks."""

    pattern: str
    group: str | None  # None: frozen
    half: Literal["lower", "upper"] | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Disjoint rules that cover every parameter, and the published learning rate of each group."""

    rules: tuple[Rule, ...]
    learning_rates: Mapping[str, float]


_PROJECTOR = r"projector\..+"
_IMAGE_ROWS = r"(embedding|head)\.vision"
_TEXT_ROWS = r"(embedding|head)\.text"
_DECODER = r"language\..+"
_BLOCKS = r"vision\.semantic_encoder\.blocks\.(?P<block>\d+)\..+"

_VISION_FROZEN = (Rule(pattern=r"vision\..+", group=None),)
# 32 blocks: the upper half is 16 to 31. The pixel encoder's levels ("down") stay frozen.
_VISION_UPPER = (
    Rule(pattern=r"vision\.semantic_encoder\.patch_embed\..+", group=None),
    Rule(pattern=_BLOCKS, group=None, half="lower"),
    Rule(pattern=_BLOCKS, group="vision", half="upper"),
    Rule(pattern=r"vision\.semantic_encoder\.merger\..+", group="vision"),
    Rule(pattern=r"vision\.pixel_encoder\.down\..+", group=None),
    Rule(pattern=r"vision\.pixel_encoder\.(conv_in|mid|norm_out|conv_out)\..+", group="vision"),
)
_LANGUAGE = (
    Rule(pattern=_PROJECTOR, group="adapter"),
    Rule(pattern=_IMAGE_ROWS, group="language"),
    Rule(pattern=_TEXT_ROWS, group="language"),
    Rule(pattern=_DECODER, group="language"),
)

PHASES: Mapping[str, Phase] = {
    "stage1": Phase(
        rules=(
            Rule(pattern=_PROJECTOR, group="adapter"),
            Rule(pattern=_IMAGE_ROWS, group="image_tokens"),
            Rule(pattern=_TEXT_ROWS, group=None),
            Rule(pattern=_DECODER, group=None),
            *_VISION_FROZEN,
        ),
        learning_rates={"adapter": 1e-3, "image_tokens": 2e-4},
    ),
    "stage2": Phase(rules=_LANGUAGE + _VISION_FROZEN, learning_rates={"adapter": 5e-5, "language": 5e-5}),
    "stage2.5": Phase(rules=_LANGUAGE + _VISION_FROZEN, learning_rates={"adapter": 5e-5, "language": 5e-5}),
    "stage3": Phase(
        rules=_LANGUAGE + _VISION_UPPER, learning_rates={"adapter": 2e-5, "language": 2e-5, "vision": 2e-6}
    ),
}


def find_phase(name: str) -> Phase:
    """Raises: PhaseError for an unknown name."""
    if name not in PHASES:
        raise PhaseError(f"phase: no {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]


def assign_groups(names: Iterable[str], phase: Phase) -> dict[str, str | None]:
    """The group of each parameter, None for frozen ones.

    Raises: PhaseError that lists names with no rule or with several.
    """
    names = list(names)
    num_blocks = _count_blocks(names)
    groups: dict[str, str | None] = {}
    wrong = []
    for name in names:
        matching = [rule for rule in phase.rules if _matches(rule, name, num_blocks)]
        if len(matching) == 1:
            groups[name] = matching[0].group
        else:
            wrong.append(f"  {name}: {len(matching)} rules" + "".join(f", {rule.pattern}" for rule in matching))
    if wrong:
        shown = "\n".join(wrong[:10] + ([f"  and {len(wrong) - 10} more"] if len(wrong) > 10 else []))
        raise PhaseError(f"phase: each parameter must match exactly one rule, but {len(wrong)} do not:\n{shown}")
    return groups


def parameter_groups(
    model: nn.Module,
    phase: Phase,
    *,
    learning_rates: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: `params`, `lr`, `weight_decay`, `name`; sets `requires_grad` of every parameter.

    Learning rates are the phase's own if not given. Biases, norms and other vectors never decay.
    Raises: PhaseError if rates are missing or superfluous, or a group of the phase has no parameter in this model.
    """
    rates = dict(phase.learning_rates if learning_rates is None else learning_rates)
    if rates.keys() != phase.learning_rates.keys():
        raise PhaseError(
            f"learning_rates: found {', '.join(sorted(rates)) or 'none'}, "
            f"expected exactly {', '.join(sorted(phase.learning_rates))}"
        )
    parameters = dict(model.named_parameters())
    groups = assign_groups(parameters, phase)
    found: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        group = groups[name]
        parameter.requires_grad_(group is not None)
        if group is not None:
            found.setdefault((group, parameter.ndim > 1), []).append(parameter)
    empty = [group for group in rates if not any(key[0] == group for key in found)]
    if empty:
        raise PhaseError(f"phase: trains {', '.join(empty)}, but this model has no such part; use a phase without it")
    return [
        {
            "name": group if decays else f"{group} (no decay)",
            "params": members,
            "lr": rates[group],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (group, decays), members in sorted(found.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def check_phase(config: MllmConfig, name: str, *, with_vision: bool) -> None:
    """Raises: PhaseError if a phase does not match the model of a configuration. Builds the model without weights."""
    with torch.device("meta"):
        model = UnifiedMllm(config, VisionBranch(config.vision) if with_vision else None)
    parameter_groups(model, find_phase(name))


def _matches(rule: Rule, name: str, num_blocks: int) -> bool:
    match = re.fullmatch(rule.pattern, name)
    if match is None or rule.half is None:
        return match is not None
    return (int(match["block"]) < num_blocks // 2) == (rule.half == "lower")


def _count_blocks(names: Iterable[str]) -> int:
    matches = (re.fullmatch(_BLOCKS, name) for name in names)
    return 1 + max((int(match["block"]) for match in matches if match), default=-1)
