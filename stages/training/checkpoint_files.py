"""Saves and loads a training state: safetensors for everything numeric, JSON for the rest; no pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FORMAT = 2
PROGRESS_FILE = "state.json"
AVERAGE_PREFIX = "average of "  # of a module's name, for the moving average of its weights


@dataclass(frozen=True, kw_only=True)
class Skip:
    """From optimizer step `at` on, `count` more data steps are skipped."""

    at: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many steps a training has done, and which data it skipped."""

    step: int = 0  # optimizer steps done
    skips: tuple[Skip, ...] = ()

    def data_step(self, step: int) -> int:
        """The data step that an optimizer step consumes."""
        return step + sum(skip.count for skip in self.skips if skip.at <= step)

    def optimizer_step(self, data_step: int) -> int | None:
        """The optimizer step that consumed a data step; None if the data step was skipped."""
        num_skipped = 0
        for skip in sorted(self.skips, key=lambda skip: skip.at):
            first = skip.at + num_skipped
            if data_step < first:
                break
            if data_step < first + skip.count:
                return None
            num_skipped += skip.count
        return data_step - num_skipped


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of a training state in host memory, independent of further training."""

    weights: Mapping[str, Mapping[str, torch.Tensor]]  # by module
    optimizers: Mapping[str, Mapping[str, torch.Tensor]]  # by pass
    progress: Progress

    @classmethod
    def capture(
        cls,
        *,
        weights: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        progress: Progress,
    ) -> "Snapshot":
        return cls(
            weights={
                name: {key: _host_copy(value) for key, value in module.state_dict().items()}
                for name, module in weights.items()
            },
            optimizers={name: _flatten(optimizer) for name, optimizer in optimizers.items()},
            progress=progress,
        )

    def write(self, folder: Path) -> None:
        """Write `weights-<name>.safetensors`, `optimizer-<pass>.safetensors` and `state.json` into an empty folder."""
        for name, tensors in self.weights.items():
            save_file(dict(tensors), str(_weights_path(folder, name)))
        for name, tensors in self.optimizers.items():
            save_file(dict(tensors), str(folder / f"optimizer-{name}.safetensors"))
        state = {
            "format": FORMAT,
            "step": self.progress.step,
            "skips": [asdict(skip) for skip in self.progress.skips],
            "weights": sorted(self.weights),
            "optimizers": sorted(self.optimizers),
        }
        (folder / PROGRESS_FILE).write_text(json.dumps(state, indent=1))


def load_state(
    folder: Path, *, weights: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> Progress:
    """Load a saved state into modules and optimizers. Returns its progress.

    Raises: ValueError if the state was saved in another format or for other modules.
    """
    state = json.loads((folder / PROGRESS_FILE).read_text())
    found = (state["format"], state["weights"], state["optimizers"])
    expected = (FORMAT, sorted(weights), sorted(optimizers))
    if found != expected:
        raise ValueError(f"{folder}: the checkpoint holds {found}, but this stage needs {expected}; raise its version")
    for name, module in weights.items():
        module.load_state_dict(load_file(str(_weights_path(folder, name))), strict=True)
    for name, optimizer in optimizers.items():
        _unflatten(optimizer, load_file(str(folder / f"optimizer-{name}.safetensors")))
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """The progress in the folder of a checkpoint or an artifact; 0 steps and no skips if it has no `state.json`."""
    path = folder / PROGRESS_FILE
    return parse_progress(path.read_bytes()) if path.exists() else Progress()


def parse_progress(data: bytes) -> Progress:
    """The progress in the bytes of a `state.json`."""
    state = json.loads(data)
    return Progress(step=int(state["step"]), skips=tuple(Skip(**skip) for skip in state["skips"]))


def has_weights(folder: Path, name: str) -> bool:
    return _weights_path(folder, name).exists()


def load_trained_weights(folder: Path, name: str, module: nn.Module) -> None:
    """Load a module's trained weights, strictly: the moving average if one was kept."""
    averaged = AVERAGE_PREFIX + name
    path = _weights_path(folder, averaged if has_weights(folder, averaged) else name)
    module.load_state_dict(load_file(str(path)), strict=True)


def _weights_path(folder: Path, name: str) -> Path:
    return folder / f"weights-{name.replace(' ', '-')}.safetensors"


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{key}": _host_copy(torch.as_tensor(value))
        for index, slots in optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
