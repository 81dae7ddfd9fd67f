"""The optimizer of a pass whose parameters a strategy may have replaced: groups and states by their names."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from models.optimization import make_optimizer, set_learning_rates
from stages.training.checkpoints.reader import CheckpointError, CheckpointReader, slot_name
from stages.training.config import OptimizerConfig
from stages.training.program import Pass
from stages.training.strategies.blocks import fill

COUNT = "step"  # the only state that is no tensor of the parameter's shape
STATES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PassOptimizer:
    """Made in two steps: names are taken from the pass as the program built it, parameters from it as it is spread."""

    def __init__(self, training_pass: Pass) -> None:
        names = {id(parameter): name for name, parameter in training_pass.module.named_parameters()}
        self.name = training_pass.name
        self._module = training_pass.module
        self._groups = [
            ({key: value for key, value in group.items() if key != "params"}, [names[id(p)] for p in group["params"]])
            for group in training_pass.groups
        ]
        self._matrices = {
            names[id(parameter)]
            for unit in training_pass.units or ()
            for parameter in unit.parameters()
            if parameter.ndim == 2 and id(parameter) in names
        }

    @property
    def parameter_names(self) -> list[str]:
        """In the order of the groups."""
        return [name for _, names in self._groups for name in names]

    def groups(self) -> list[dict[str, Any]]:
        """The groups over the parameters as they are now."""
        parameters = dict(self._module.named_parameters())
        return [{**settings, "params": [parameters[name] for name in names]} for settings, names in self._groups]

    def build(self, settings: OptimizerConfig) -> None:
        """Make the optimizer, after the module was spread over the workers."""
        if settings.name == "muon":
            self._groups = list(self._divided())
        self.optimizer = make_optimizer(
            self.groups(),
            name=settings.name,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            states=STATES[settings.states],
        )
        self._states = STATES[settings.states]
        self.parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]

    def _divided(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """The groups, each divided into the matrices of repeated layers and the rest."""
        for settings, names in self._groups:
            for matrices in (True, False):
                members = [name for name in names if (name in self._matrices) == matrices]
                if members:
                    yield {**settings, "matrices": matrices}, members

    def set_rates(self, factor: float) -> None:
        set_learning_rates(self.optimizer, factor)

    def rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def states(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors of the optimizer's state; they share its memory."""
        for name, parameter in zip(self.parameter_names, self.parameters, strict=True):
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                yield slot_name(self.name, name, slot), torch.as_tensor(value)

    def load(self, reader: CheckpointReader, slots: Mapping[str, Mapping[str, str]]) -> None:
        """`slots`: parameter -> slot -> name in the checkpoint, of this pass; none if the pass had not begun.

        Raises: CheckpointError if some parameters have states and others have none.
        """
        self.check_slots(slots)
        for name, parameter in zip(self.parameter_names, self.parameters, strict=True):
            if name in slots:
                self.optimizer.state[parameter] = {
                    slot: _loaded(parameter, reader, source, slot, self._states) for slot, source in slots[name].items()
                }

    def check_slots(self, slots: Collection[str]) -> None:
        """`slots`: parameters with states. Raises: CheckpointError if others have none."""
        missing = [name for name in self.parameter_names if name not in slots] if slots else []
        if missing:
            raise CheckpointError(
                f"pass {self.name}: the checkpoint has no optimizer state of {', '.join(missing[:6])}"
            )


def slots_by_pass(reader: CheckpointReader) -> dict[str, dict[str, dict[str, str]]]:
    """pass -> parameter -> slot -> name of all optimizer states of a checkpoint."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in reader.shapes:
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            pass_name, parameter, slot = rest.split("/")
            found.setdefault(pass_name, {}).setdefault(parameter, {})[slot] = name
    return found


def _loaded(
    parameter: nn.Parameter, reader: CheckpointReader, source: str, slot: str, states: torch.dtype
) -> torch.Tensor:
    if slot == COUNT:
        return reader.read(source, (), ()).to(parameter.device)
    state = torch.zeros_like(parameter, dtype=states, memory_format=torch.preserve_format).detach()
    fill(state, reader, source)
    return state
