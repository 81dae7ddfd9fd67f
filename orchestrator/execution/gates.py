"""Bounds that a recipe sets on the figures of its stages: what breaks one is not committed, or is told as a warning.

Figures are those that the stage's `run` returned. Bounds are no part of the identity: another bound makes nothing new,
so an artifact that exists is checked when a plan wants to use it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.stage import Gate, StageSpec


@dataclass(frozen=True, kw_only=True)
class GateResult:
    name: str
    gate: Gate
    actual: float | None  # None: the stage gives no such figure
    problem: str  # a sentence; empty if the gate holds


def gate_results(spec: StageSpec, figures: Mapping[str, float]) -> list[GateResult]:
    """Every gate of a stage held against its figures. One that its kind knows and that is missing counts as 0."""
    known: dict[str, float] = dict.fromkeys(spec.kind.figures, 0.0)
    given = {**known, **figures}
    return [
        GateResult(name=name, gate=gate, actual=given.get(name), problem=_sentence(name, gate, given))
        for name, gate in spec.gates.items()
    ]


def broken_gates(spec: StageSpec, figures: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """What breaks a gate of severity "error", and what one of severity "warning", as sentences."""
    broken = [result for result in gate_results(spec, figures) if result.problem]
    errors = [result.problem for result in broken if result.gate.severity == "error"]
    return errors, [result.problem for result in broken if result.gate.severity == "warning"]


def gates_to_json(results: list[GateResult]) -> list[JSON]:
    """For events."""
    return [
        {
            "figure": result.name,
            "at_least": result.gate.at_least,
            "at_most": result.gate.at_most,
            "severity": result.gate.severity,
            "actual": result.actual,
            "holds": not result.problem,
        }
        for result in results
    ]


def _sentence(name: str, gate: Gate, figures: Mapping[str, float]) -> str:
    if name not in figures:
        return f"gates.{name}: the stage gives no such figure; it gives {', '.join(sorted(figures)) or 'none'}"
    value = figures[name]
    if gate.at_least is not None and not value >= gate.at_least:  # so that a value that is no number breaks it
        return f"gates.{name}: found {value:.6g}, expected at least {gate.at_least:g}"
    if gate.at_most is not None and not value <= gate.at_most:
        return f"gates.{name}: found {value:.6g}, expected at most {gate.at_most:g}"
    return ""
