"""What a strategy needs, checked before a worker starts: a package, workers that a mesh divides, layers it can hook."""

import inspect
import typing
from collections.abc import Iterable
from importlib.util import find_spec
from types import UnionType
from typing import Any, Union

from orchestrator.errors import PrecheckError
from orchestrator.stage import Resources
from stages.training.config import OptimizerConfig, TrainingExecution
from stages.training.program import unit_types_of
from stages.training.strategies.mesh import check_mesh

DEFAULT = OptimizerConfig()
INSTALL = "DS_BUILD_OPS=0 python -m pip install 'illume-orchestrator[deepspeed]'"


def check_strategy(
    execution: TrainingExecution, resources: Resources, program_class: object, optimizer: OptimizerConfig = DEFAULT
) -> None:
    """Raises: PrecheckError, with the smallest change that would work."""
    check_layout(execution, resources, optimizer)
    if execution.strategy == "deepspeed":
        check_package()
    if execution.zero_stage == 3:
        check_units(unit_types_of(program_class))


def check_layout(execution: TrainingExecution, resources: Resources, optimizer: OptimizerConfig) -> None:
    """What follows from the recipe alone, on whatever machine it is. Raises: as `check_strategy`."""
    for workers in {resources.workers, resources.min_workers or resources.workers}:
        check_mesh(workers, execution.shard_workers)
    if optimizer.name == "muon" and execution.strategy != "ddp":
        raise PrecheckError(
            f"loop.optimizer.name: muon with execution.strategy: {execution.strategy}, which divides matrices that it "
            "needs whole; set strategy: ddp, or name: adamw"
        )
    if execution.strategy == "deepspeed" and optimizer.states != "fp32":
        raise PrecheckError(
            f"loop.optimizer.states: {optimizer.states} with execution.strategy: deepspeed, which keeps its states "
            "in fp32; set strategy: fsdp2, which divides them among the workers too"
        )


def check_package(name: str = "deepspeed") -> None:
    if find_spec(name) is None:
        raise PrecheckError(
            f"execution.strategy: deepspeed: the package {name} is not installed; set strategy: fsdp2, which divides "
            f"the same states without it, or install it on every node: {INSTALL}"
        )


def check_units(unit_types: Iterable[type]) -> None:
    """Raises: PrecheckError if a layer says that it returns something in which ZeRO-3 finds no tensors.

    DeepSpeed hooks tensors that a layer returns, alone or in tuples, lists and dicts. Of any other layer the parameters
    would be released before its backward pass.
    """
    for unit_type in unit_types:
        for found in _returned(unit_type):
            if not _is_hooked(found):
                raise PrecheckError(
                    f"execution.zero_stage: 3 with layers {unit_type.__name__}, which return {found.__name__}: "
                    "DeepSpeed finds tensors in tuples, lists and dicts only; set zero_stage: 2, or make "
                    f"{found.__name__} a NamedTuple"
                )


def _returned(unit_type: type) -> list[type]:
    """The classes that the annotation of its `forward` names; none if there is no annotation."""
    forward = inspect.getattr_static(unit_type, "forward", None)
    try:
        annotation: Any = typing.get_type_hints(forward).get("return")
    except (NameError, TypeError):  # names that are imported for type checkers only, or no function
        return []
    members = typing.get_args(annotation) if typing.get_origin(annotation) in (Union, UnionType) else (annotation,)
    classes = (typing.get_origin(member) or member for member in members)
    return [found for found in classes if isinstance(found, type) and found is not type(None)]


def _is_hooked(found: type) -> bool:
    import torch  # late: the driver's own process has no other use for it

    return issubclass(found, torch.Tensor | tuple | list | dict)
