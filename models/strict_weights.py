"""Loads weights that match exactly or not at all, with one message that lists every difference by module."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from models.errors import DataError

_NAMES_PER_GROUP = 4


class WeightsError(DataError):
    """Weights that do not match the model they are meant for."""


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Replace the parameters and buffers of a module by `tensors`; nothing is changed unless all of them match.

    Works on a module built on the meta device: the tensors themselves become its parameters.
    Raises: WeightsError that lists missing, unexpected and mis-shaped names by module. `where` names the source.
    """
    check_strictly(module, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where=where)
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def check_strictly(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Compare names and shapes, e.g. of a file's header, with a module, which may be on the meta device.

    Raises: WeightsError: as `load_strictly`.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    misshaped = [
        f"{name} {list(shapes[name])} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in shapes and shapes[name] != tuple(value.shape)
    ]
    if missing or unexpected or misshaped:
        raise WeightsError(_describe(where, len(expected), missing, unexpected, misshaped))


def _describe(
    where: str, num_expected: int, missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]
) -> str:
    lines = [f"{where}: does not fit the model ({num_expected} tensors expected); nothing was loaded."]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshaped)):
        if names:
            lines.append(f"  {title}: {len(names)}")
            lines.extend(f"    {line}" for line in _group_by_module(names))
    if misshaped:
        lines.append(
            "  What to do: the sizes differ, so load with the configuration that these weights were made with."
        )
    elif missing and unexpected:
        lines.append("  What to do: the names differ; check that the file holds this kind of model, without a prefix.")
    elif missing:
        lines.append(
            "  What to do: the file is incomplete (an interrupted save, or one of several parts); get all of it."
        )
    else:
        lines.append(
            "  What to do: the file holds more than this model (another model, optimizer state); export it again."
        )
    return "\n".join(lines)


def _group_by_module(names: Sequence[str]) -> list[str]:
    """One line per top-level module: how many names, and the first few."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.split(" ")[0].partition(".")[0]].append(name)
    return [
        f"{module} ({len(members)}): {', '.join(members[:_NAMES_PER_GROUP])}"
        + (", ..." if len(members) > _NAMES_PER_GROUP else "")
        for module, members in groups.items()
    ]
