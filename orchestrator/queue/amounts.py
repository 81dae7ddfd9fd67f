"""Amounts of what a cluster shares out: CPUs, accelerators and memory, together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.stage import Resources

_ROUNDING = 1e-6  # shares of a CPU or an accelerator have inexact sums
UNITS = {"cpus": "CPUs", "gpus": "GPUs", "memory_gib": "GiB"}


@dataclass(frozen=True, kw_only=True)
class Amounts:
    cpus: float = 0.0
    gpus: float = 0.0
    memory_gib: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus, memory_gib=self.memory_gib + other.memory_gib
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus, memory_gib=self.memory_gib - other.memory_gib
        )

    def fits_in(self, free: "Amounts") -> bool:
        return not self.lacks(free)

    def lacks(self, free: "Amounts") -> list[str]:
        """The names of what `free` has too little of; what is not asked for is never lacking."""
        return [name for name in UNITS if _of(self, name) > 0 and _of(self, name) > _of(free, name) + _ROUNDING]

    def at_most(self, capacity: "Amounts") -> "Amounts":
        """Cut to the whole cluster: what asks for more runs alone."""
        return Amounts(
            cpus=min(self.cpus, capacity.cpus),
            gpus=min(self.gpus, capacity.gpus),
            memory_gib=min(self.memory_gib, capacity.memory_gib),
        )

    def share_of(self, capacity: "Amounts") -> float:
        """The largest of the shares of what is limited. Source: dominant resource fairness (Ghodsi et al., 2011)."""
        limits = {name: _of(capacity, name) for name in UNITS}
        known = {name: limit for name, limit in limits.items() if 0 < limit < math.inf}
        return max((_of(self, name) / limit for name, limit in known.items()), default=0.0)


UNLIMITED = Amounts(cpus=math.inf, gpus=math.inf, memory_gib=math.inf)


def total(amounts: Iterable[Amounts]) -> Amounts:
    return sum(amounts, start=Amounts())


def need_of(resources: Resources) -> Amounts:
    """Of all workers of a stage together."""
    return Amounts(
        cpus=resources.workers * resources.cpus,
        gpus=resources.workers * resources.gpus,
        memory_gib=resources.workers * resources.memory_gib,
    )


def shortage(need: Amounts, free: Amounts, capacity: Amounts) -> str:
    """For people: `8 GPUs: 6 of 8 are taken`; empty if it fits."""
    return "; ".join(
        f"{_of(need, name):g} {UNITS[name]}: {_of(capacity, name) - _of(free, name):g} of {_of(capacity, name):g} are "
        "taken"
        for name in need.lacks(free)
    )


def _of(amounts: Amounts, name: str) -> float:
    value: float = getattr(amounts, name)  # a name of `UNITS`
    return value
