"""Gates: bounds that a recipe sets on the metrics of its stages. Breaking one blocks the commit, or logs a warning.

Metrics are those that the stage's `run` returned. Gates are not part of the identity: changing one makes nothing new,
so an existing artifact is checked when a plan reuses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.stage import Gate, StageSpec


@dataclass(frozen=True, kw_only=True)
class GateResult:
    name: str
    gate: Gate
    actual: float | None  # None: the stage returned no such metric
    problem: str  # a sentence; empty if the gate is met


def gate_results(spec: StageSpec, metrics: Mapping[str, float]) -> list[GateResult]:
    """The result of every gate of a stage. A metric that the kind declares and that is missing counts as 0."""
    known: dict[str, float] = dict.fromkeys(spec.kind.metric_names, 0.0)
    values = {**known, **metrics}
    return [
        GateResult(name=name, gate=gate, actual=values.get(name), problem=_problem(name, gate, values))
        for name, gate in spec.gates.items()
    ]


def broken_gates(spec: StageSpec, metrics: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The problems of gates of severity "error" and of severity "warning", as sentences."""
    broken = [result for result in gate_results(spec, metrics) if result.problem]
    errors = [result.problem for result in broken if result.gate.severity == "error"]
    return errors, [result.problem for result in broken if result.gate.severity == "warning"]


def gates_to_json(results: list[GateResult]) -> list[JSON]:
    """The results as fields of an event."""
    return [
        {
            "metric": result.name,
            "at_least": result.gate.at_least,
            "at_most": result.gate.at_most,
            "severity": result.gate.severity,
            "actual": result.actual,
            "holds": not result.problem,
        }
        for result in results
    ]


def _problem(name: str, gate: Gate, metrics: Mapping[str, float]) -> str:
    if name not in metrics:
        return f"gates.{name}: the stage returned no such metric; it returned {', '.join(sorted(metrics)) or 'none'}"
    value = metrics[name]
    if gate.at_least is not None and not value >= gate.at_least:  # written so that NaN breaks it
        return f"gates.{name}: found {value:.6g}, expected at least {gate.at_least:g}"
    if gate.at_most is not None and not value <= gate.at_most:
        return f"gates.{name}: found {value:.6g}, expected at most {gate.at_most:g}"
    return ""
