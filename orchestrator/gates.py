"""Bounds that a recipe sets on the figures of its stages: what breaks one is not committed, or is told as a warning.

Figures are those that the stage's `run` returned. Bounds are no part of the identity: another bound makes nothing new,
so an artifact that exists is checked when a plan wants to use it again.
"""

from collections.abc import Mapping

from orchestrator.stage import Gate


def broken_gates(gates: Mapping[str, Gate], figures: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """What breaks a gate of severity "error", and what one of severity "warning", as sentences."""
    errors: list[str] = []
    warnings: list[str] = []
    for name, gate in gates.items():
        if sentence := _sentence(name, gate, figures):
            (errors if gate.severity == "error" else warnings).append(sentence)
    return errors, warnings


def _sentence(name: str, gate: Gate, figures: Mapping[str, float]) -> str:
    if name not in figures:
        return f"gates.{name}: the stage gives no such figure; it gives {', '.join(sorted(figures)) or 'none'}"
    value = figures[name]
    if gate.at_least is not None and not value >= gate.at_least:  # so that a value that is no number breaks it
        return f"gates.{name}: found {value:.6g}, expected at least {gate.at_least:g}"
    if gate.at_most is not None and not value <= gate.at_most:
        return f"gates.{name}: found {value:.6g}, expected at most {gate.at_most:g}"
    return ""
