"""Reads a checkpoint slice by slice: what is in it is known, and checked, before a byte of a tensor is read.

Names: `weights/<module>/<name in its state dict>` and `optimizer/<pass>/<parameter's name>/<slot>`.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import nn

from models.errors import DataError
from models.strict_weights import WeightsError
from stages.training.checkpoints.progress import PROGRESS_FILE
from stages.training.checkpoints.slices import METADATA, Shape, overlap, read_header, tensor_digest

FORMAT = 3
FORMER_FORMAT = 2  # whole tensors in one file for each module and pass
AVERAGE_PREFIX = "average of "  # of a module's name, for the moving average of its weights
MAX_SHOWN = 6  # names in a message

ParameterNames = Mapping[str, Sequence[str]]  # pass -> names of its parameters, in the order of its groups


class CheckpointError(DataError):
    """A checkpoint that does not fit the model, or that lacks parts of tensors."""


class CheckpointReader(Protocol):
    """The tensors of one checkpoint."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each whole tensor, by name."""

    @property
    def frozen(self) -> Mapping[str, str]:
        """Digests of the tensors that did not train and are not in the files, by name."""

    def read(self, name: str, offset: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
        """A block of a tensor, in host memory."""


def weight_name(module: str, key: str) -> str:
    return f"weights/{module}/{key}"


def slot_name(pass_name: str, parameter: str, slot: str) -> str:
    return f"optimizer/{pass_name}/{parameter}/{slot}"


def open_checkpoint(folder: Path, parameters: ParameterNames | None = None) -> CheckpointReader:
    """`parameters` name the optimizer states of a checkpoint of the former format, which counts them.

    Raises: CheckpointError if the format is another one or parts of tensors are missing.
    """
    state = json.loads((folder / PROGRESS_FILE).read_text())
    if state.get("format") == FORMAT:
        return _open_slices(folder, state)
    if state.get("format") == FORMER_FORMAT:
        return _open_former(folder, state, parameters or {})
    raise CheckpointError(
        f"{folder}: a checkpoint of format {state.get('format')!r}; expected {FORMER_FORMAT} or {FORMAT}"
    )


@dataclass(frozen=True, kw_only=True)
class _Block:
    file: Path
    key: str  # in the file
    offset: Shape
    extent: Shape


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """`CheckpointReader` of blocks in files."""

    blocks: Mapping[str, Sequence[_Block]]
    shapes: Mapping[str, Shape]
    frozen: Mapping[str, str]

    def read(self, name: str, offset: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
        found: torch.Tensor | None = None
        for block in self.blocks[name]:
            meets = overlap(offset, extent, block.offset, block.extent)
            if meets is None:
                continue
            with safe_open(str(block.file), framework="pt") as file:
                stored = file.get_slice(block.key)
                part = stored[meets[1]] if block.extent else file.get_tensor(block.key)
            found = part.new_empty(tuple(extent)) if found is None else found
            found[meets[0]] = part
        return torch.empty(tuple(extent)) if found is None else found


def _open_slices(folder: Path, state: Mapping[str, Any]) -> CheckpointReader:
    blocks: dict[str, list[_Block]] = {}
    shapes: dict[str, Shape] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        header = read_header(path)
        places = json.loads(header["__metadata__"][METADATA])
        for key, (shape, offset, *named) in places.items():
            name = named[0] if named else key
            shapes[name] = tuple(shape)
            block = _Block(file=path, key=key, offset=tuple(offset), extent=tuple(header[key]["shape"]))
            blocks.setdefault(name, []).append(block)
    missing = [name for name in state["tensors"] if not _is_whole(blocks.get(name, ()), shapes.get(name, (1,)))]
    if missing:
        raise CheckpointError(
            f"{folder}: parts of {len(missing)} tensors are missing: {_some(missing)}; the file of a worker is not "
            "there or is of another checkpoint; go back to an earlier one"
        )
    return _Blocks(blocks=blocks, shapes=shapes, frozen=state["frozen"])


def _is_whole(blocks: Sequence[_Block], shape: Shape) -> bool:
    return sum(math.prod(block.extent) for block in blocks) == math.prod(shape) and len(blocks) > 0


def _open_former(folder: Path, state: Mapping[str, Any], parameters: ParameterNames) -> CheckpointReader:
    blocks: dict[str, list[_Block]] = {}

    def add(name: str, path: Path, key: str, shape: Sequence[int]) -> None:
        blocks[name] = [_Block(file=path, key=key, offset=(0,) * len(shape), extent=tuple(shape))]

    for module in state["weights"]:
        path = folder / f"weights-{module.replace(' ', '-')}.safetensors"
        for key, fields in _entries(path):
            add(weight_name(module, key), path, key, fields["shape"])
    for pass_name in state["optimizers"] if parameters else ():
        path, names = folder / f"optimizer-{pass_name}.safetensors", parameters.get(pass_name, ())
        for key, fields in _entries(path):
            number, slot = key.split(".", 1)
            parameter = names[int(number)] if int(number) < len(names) else f"number {number}"
            add(slot_name(pass_name, parameter, slot), path, key, fields["shape"])
    return _Blocks(blocks=blocks, shapes={name: found[0].extent for name, found in blocks.items()}, frozen={})


def open_weights(files: Mapping[Path, str], module: str) -> CheckpointReader:
    """The tensors of safetensors files as the weights of a module. Only the headers are read.

    `files`: of each, what its names lack of those of the module. Of two tensors of one name, that of the later counts.
    Raises: WeightsError: one is no safetensors file.
    """
    blocks, shapes = dict[str, list[_Block]](), dict[str, Shape]()
    for path, prefix in files.items():
        try:
            entries = _entries(path)
        except ValueError as error:
            raise WeightsError(f"{error}; expected the weights of a finished training") from error
        for key, fields in entries:
            name, shape = weight_name(module, prefix + key), tuple(fields["shape"])
            shapes[name] = shape
            blocks[name] = [_Block(file=path, key=key, offset=(0,) * len(shape), extent=shape)]
    return _Blocks(blocks=blocks, shapes=shapes, frozen={})


def shapes_of(reader: CheckpointReader, module: str) -> dict[str, Shape]:
    """The shapes of the weights of a module, by the names of its state dict."""
    prefix = weight_name(module, "")
    return {name.removeprefix(prefix): shape for name, shape in reader.shapes.items() if name.startswith(prefix)}


def _entries(path: Path) -> list[tuple[str, Any]]:
    return [(key, fields) for key, fields in read_header(path).items() if key != "__metadata__"]


def check_shapes(reader: CheckpointReader, wanted: Mapping[str, Shape], *, where: str) -> None:
    """Raises: CheckpointError unless the checkpoint has every wanted tensor, or its digest, and no other weight."""
    missing = [name for name in wanted if name not in reader.shapes and name not in reader.frozen]
    other = [name for name in [*reader.shapes, *reader.frozen] if name.startswith("weights/") and name not in wanted]
    shaped = [
        f"{name} {list(reader.shapes[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in reader.shapes and reader.shapes[name] != shape
    ]
    problems = [("missing", missing), ("unexpected", other), ("of another shape", shaped)]
    if any(names for _, names in problems):
        found = "; ".join(f"{len(names)} {title}: {_some(names)}" for title, names in problems if names)
        raise CheckpointError(
            f"{where}: a checkpoint of another model; nothing was loaded. {found}; raise the kind's version"
        )


def check_frozen(reader: CheckpointReader, digests: Iterable[tuple[str, str]], *, where: str) -> None:
    """Compare digests of tensors that did not train. Raises: CheckpointError if any differs."""
    different = [name for name, digest in digests if reader.frozen.get(name, digest) != digest]
    if different:
        raise CheckpointError(
            f"{where}: {len(different)} tensors that do not train differ from those of this checkpoint: "
            f"{_some(different)}; the model that training began with is another one now"
        )


def has_weights(folder: Path, module: str) -> bool:
    """Whether a module's weights are in a checkpoint."""
    prefix = weight_name(module, "")
    return any(name.startswith(prefix) for name in open_checkpoint(folder).shapes)


def load_trained_weights(folder: Path, module_name: str, module: nn.Module) -> None:
    """Load a module's trained weights, strictly: the moving average if one was kept.

    What did not train stays as it was built, and is compared by its digest.
    Raises: CheckpointError if the checkpoint is of another model.
    """
    reader = open_checkpoint(folder)
    averaged = weight_name(AVERAGE_PREFIX + module_name, "")
    is_averaged = any(name.startswith(averaged) for name in reader.shapes)
    source = AVERAGE_PREFIX + module_name if is_averaged else module_name
    tensors = {weight_name(source, key): value for key, value in module.state_dict().items()}
    of_module = _OfModule(reader, weight_name(source, ""))
    check_shapes(of_module, {name: tuple(value.shape) for name, value in tensors.items()}, where=str(folder))
    frozen = ((name, tensor_digest(tensors[name])) for name in of_module.frozen)
    check_frozen(of_module, frozen, where=str(folder))
    with torch.no_grad():
        for name, value in tensors.items():
            if name in reader.shapes:
                value.copy_(reader.read(name, (0,) * value.ndim, tuple(value.shape)))


class _OfModule:
    """The part of a checkpoint with the weights of one module."""

    def __init__(self, reader: CheckpointReader, prefix: str) -> None:
        self._reader = reader
        self.shapes = {name: shape for name, shape in reader.shapes.items() if name.startswith(prefix)}
        self.frozen = {name: digest for name, digest in reader.frozen.items() if name.startswith(prefix)}

    def read(self, name: str, offset: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
        return self._reader.read(name, offset, extent)


def _some(names: Collection[str]) -> str:
    shown = list(names)[:MAX_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
