"""Printing JSON for scripts: every output has its form described in `reference/outputs.py`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from orchestrator.history.run_status import RunSummary
from orchestrator.reference.outputs import FORMAT, OUTPUTS
from orchestrator.times import iso_time


def echo_json(output: str, value: Mapping[str, Any]) -> None:
    """Print the output of a name in `OUTPUTS`. It gets a `format` unless it has one."""
    assert output in OUTPUTS, f"the output {output!r} is described in reference/outputs.py"
    click.echo(json.dumps({"format": FORMAT, **_finite(value)}, indent=2, allow_nan=False))


def run_to_json(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "created_at": iso_time(run.created_at), "updated_at": iso_time(run.updated_at)}


def _finite(value: Any) -> Any:
    """Non-finite numbers as text, as JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
