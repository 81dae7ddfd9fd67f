"""Collects the result of a check: one finding per tensor or case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.errors import DataError

_MAX_VALUE_CHARS = 120


class VectorsError(DataError):
    """A file that cannot be checked: not readable, of no known format, or without a file that it needs."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A vector file: its facts, and the tensors of the safetensors file of the same name if there is one."""

    where: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison. `equal` is None where a part of the file was not compared."""

    name: str
    equal: bool | None
    text: str


@dataclass
class Report:
    """Collects findings in the order in which they are made."""

    findings: list[Finding] = field(default_factory=list)

    def expect_equal(self, name: str, found: object, expected: object, text: str = "equal") -> None:
        """Exact equality of values that Python compares."""
        equal = found == expected
        self._add(name, equal, text if equal else f"found {_short(found)}, expected {_short(expected)}")

    def expect_tensor(self, name: str, found: Tensor, expected: Tensor, atol: float) -> None:
        """Equal shape, and no value further off than `atol`; NaN is never equal."""
        if found.shape != expected.shape:
            self._add(name, False, f"shape {list(found.shape)}, expected {list(expected.shape)}")
            return
        difference = (found.detach().double() - expected.double()).abs()
        largest = float(difference.max()) if difference.numel() else 0.0
        self._add(name, largest <= atol, _difference(largest, atol))

    def expect_number(
        self, name: str, found: float | Tensor, expected: float, *, rtol: float, atol: float = 0.0
    ) -> None:
        """Within `rtol` of the expected value or `atol`, whichever is larger."""
        largest, allowed = abs(float(found) - expected), max(rtol * abs(expected), atol)
        self._add(name, largest <= allowed, _difference(largest, allowed))

    def expect_codes(self, name: str, found: Tensor, expected: Tensor, margin: Tensor, min_margin: float) -> None:
        """Exact wherever the second-best code is at least `min_margin` further away; nearer ones are ties."""
        if found.shape != expected.shape:
            self._add(name, False, f"shape {list(found.shape)}, expected {list(expected.shape)}")
            return
        decided = margin >= min_margin
        wrong = int((found != expected.long())[decided].sum())
        ties = int((~decided).sum())
        text = f"{found.numel() - ties} codes equal" + (f", {ties} ties left out" if ties else "")
        self._add(name, wrong == 0, text if wrong == 0 else f"{wrong} of {int(decided.sum())} codes differ")

    def fail(self, name: str, text: str) -> None:
        """Something that could not even be computed."""
        self._add(name, False, text)

    def skip(self, name: str, reason: str) -> None:
        """A part of the file that was not compared."""
        self.findings.append(Finding(name=name, equal=None, text=f"not compared: {reason}"))

    @property
    def misses(self) -> int:
        return sum(finding.equal is False for finding in self.findings)

    @property
    def compared(self) -> int:
        return sum(finding.equal is not None for finding in self.findings)

    def _add(self, name: str, equal: bool, text: str) -> None:
        self.findings.append(Finding(name=name, equal=equal, text=text))


def statistics(tensor: Tensor) -> dict[str, float]:
    """Mean, standard deviation (n - 1), minimum, maximum and absolute sum, in fp64: what the files store of tensors."""
    values = tensor.detach().double()
    return {
        "mean": float(values.mean()),
        "std": float(values.std()) if values.numel() > 1 else 0.0,
        "min": float(values.min()),
        "max": float(values.max()),
        "abs_sum": float(values.abs().sum()),
    }


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors below a prefix, without it; floating ones in fp32 (weights are stored in fp16, which loses nothing)."""
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def plain(value: Any) -> Any:
    """Tuples as lists and tensors as numbers, as JSON has them."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _difference(largest: float, allowed: float) -> str:
    if math.isnan(largest):
        return "not a number"
    return "equal" if largest == 0 else f"largest difference {largest:.2g}, tolerance {allowed:.2g}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 3] + "..."
