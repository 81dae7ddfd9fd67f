"""A pretended CUDA device: tensors live in host memory, but what CUDA would refuse is refused.

It shows faults that no CPU shows: operands on two devices, a generator of another device, arrays of the host asked of
a tensor on the device, memory that is pinned twice. It also counts the times that the host would wait for the device.
A tensor is on the device if its storage is known to be; everything derived from it is found by the dispatcher, in
backward passes too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")
_MOVES = {"aten._to_copy", "aten.copy_", "aten.copy"}
_TAKES_HOST_INDICES = {"aten.index", "aten.index_put_", "aten.index_put", "aten._unsafe_index"}
_WAITS = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero"}
_HOST_ONLY = {"numpy", "tolist", "__array__"}
_DEVICE_GETTER = torch.Tensor.device.__get__  # type: ignore[attr-defined]  # a getter of C


class PretendedDevice(TorchDispatchMode):
    """Use with `with`; inside, `torch.device("cuda", 0)` works. `waits`: operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._storages: dict[int, torch.UntypedStorage] = {}  # kept, so that an address is not used again
        self._functions = _Functions(self)

    def __enter__(self) -> "PretendedDevice":
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def put(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.replace("::", ".")
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        held = [tensor for tensor in operands if self.holds(tensor)]
        if held and name not in _MOVES:
            self._check_operands(name, args, operands)
        if held and name in _WAITS:
            self.waits.append(name)
        self._check_generator(name, args, kwargs, on_device=bool(held) or self._functions.target == DEVICE)
        outputs = function(*args, **kwargs)
        destination = self._functions.target
        if destination == DEVICE or (held and destination is None and not self._is_copy_to_host(name, args)):
            for output in tree_leaves(outputs):
                if isinstance(output, torch.Tensor) and not self._is_operand(output, operands):
                    self.put(output)
        return outputs

    def _is_operand(self, output: torch.Tensor, operands: Sequence[torch.Tensor]) -> bool:
        return any(output.untyped_storage()._cdata == tensor.untyped_storage()._cdata for tensor in operands)

    def _is_copy_to_host(self, name: str, args: Sequence[Any]) -> bool:
        return name in _MOVES and name != "aten._to_copy" and not self.holds(args[0])

    def _check_operands(self, name: str, args: Sequence[Any], operands: Sequence[torch.Tensor]) -> None:
        if name in _TAKES_HOST_INDICES and self.holds(args[0]):
            return
        for tensor in operands:
            if not self.holds(tensor) and tensor.ndim:
                raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({name})")

    def _check_generator(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, on_device: bool) -> None:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Generator) and on_device and leaf.device.type != DEVICE.type:
                raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")


class _Functions(TorchFunctionMode):
    """What must be seen before the dispatcher: the names of devices, and arrays of the host."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self._device = device
        self.target: torch.device | None = None  # device named by the function that runs; None: that of its operands

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function == _DEVICE_GETTER:
            return DEVICE if self._device.holds(args[0]) else CPU
        if name in _HOST_ONLY and self._device.holds(args[0]):
            if name != "tolist":
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            self._device.waits.append("tolist")
        if name == "pin_memory":
            if self._device.holds(args[0]):
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            return args[0]
        if name == "is_pinned":
            return False
        target = None if name == "_parse_to" else self._target(function, name, args, kwargs)
        if name in ("to", "cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return self._move(function, target, args, kwargs)
        if target is None:
            return function(*args, **kwargs)
        before, self.target = self.target, target
        try:
            made = function(*_on_host(args), **_on_host(kwargs))
        finally:
            self.target = before
        if target == DEVICE and isinstance(made, torch.Tensor) and not self._device.holds(made):
            made = made.clone() if name == "as_tensor" else made  # may be the tensor that it was given
            self._device.put(made)
        return made

    def _target(self, function: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
        if name == "cpu":
            return CPU
        if name == "cuda":
            return DEVICE
        found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
        found += [torch.device(value) for key, value in kwargs.items() if key == "device" and isinstance(value, str)]
        if name == "to" and len(args) > 1 and isinstance(args[1], str):
            found.append(torch.device(args[1]))
        if name == "to" and len(args) > 1 and isinstance(args[1], torch.Tensor):
            found.append(DEVICE if self._device.holds(args[1]) else CPU)
        if found:
            return DEVICE if found[0].type == "cuda" else CPU
        if name in ("new_tensor", "new_empty", "new_zeros", "new_ones", "new_full"):
            return DEVICE if self._device.holds(args[0]) else CPU
        return None

    def _move(self, function: Any, target: torch.device | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        source = args[0]
        if target is None or (target == DEVICE) == self._device.holds(source):
            return _call_on_host(function, args, kwargs)
        if target == CPU:
            self._device.waits.append("cpu")
        before, self.target = self.target, target
        try:
            moved = _call_on_host(function, args, kwargs)
            return moved.clone() if moved.untyped_storage()._cdata == source.untyped_storage()._cdata else moved
        finally:
            self.target = before


def _call_on_host(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if getattr(function, "__name__", "") == "cuda":
        return args[0].clone()
    return function(*_on_host(args), **_on_host(kwargs))


def _on_host(values: Any) -> Any:
    moved = tree_map_only(torch.device, lambda _: CPU, values)
    if isinstance(moved, dict) and isinstance(moved.get("device"), str):
        moved["device"] = CPU
    if isinstance(moved, tuple | list) and len(moved) > 1 and isinstance(moved[1], str) and moved[1].startswith("cuda"):
        moved = (moved[0], CPU, *moved[2:])
    return moved
