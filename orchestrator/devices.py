"""Accelerators by name: peak, memory and link, from `devices.yaml` beside this file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.documents.suggestions import expectation
from orchestrator.documents.typed_json import decode
from orchestrator.errors import RecipeError
from orchestrator.recipe.yaml_subset import parse_yaml, read_text

_FILE = Path(__file__).with_name("devices.yaml")
_GB, _GIB = 1e9, 2**30
_USABLE_SHARE = 0.97  # of the memory, where nobody measured


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    bf16_tflops: float  # dense peak
    memory_gb: float
    memory_gbs: float  # bandwidth, GB/s
    link_gbs: float  # inside a node, both directions, GB/s
    usable_gib: float = 0.0  # that a process can allocate; 0: 97 % of the memory
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.bf16_tflops, self.memory_gb, self.memory_gbs, self.link_gbs) <= 0 or self.usable_gib < 0:
            raise ValueError("expected a peak, a memory, a bandwidth and a link above 0")

    @property
    def usable_bytes(self) -> float:
        return self.usable_gib * _GIB if self.usable_gib else self.memory_gb * _GB * _USABLE_SHARE


@dataclass(frozen=True, kw_only=True)
class _Table:
    devices: dict[str, Device]


@cache
def devices() -> Mapping[str, Device]:
    """All known accelerators by their canonical name."""
    document = parse_yaml(read_text(_FILE, "table of devices"), str(_FILE))
    problems = list(document.problems)
    table = decode(_Table, {"devices": document.data}, (), problems)
    if table is None or problems:
        raise RecipeError(f"{_FILE.name}: {'; '.join(problem.text for problem in problems)}")
    return table.devices


def find_device(name: str) -> tuple[str, Device]:
    """The canonical name and the accelerator of a name in any spelling. Raises: RecipeError: nobody knows it."""
    known = {
        alias.lower(): canonical for canonical, device in devices().items() for alias in (canonical, *device.names)
    }
    found = known.get(name.lower())
    if not found:
        raise RecipeError(
            f"gpu: {name!r}: {expectation(name, sorted(devices()))}; "
            "or give bf16_tflops and usable_gib of this machine type yourself"
        )
    return found, devices()[found]
