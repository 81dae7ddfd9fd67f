"""The folder that a spike leaves: read again by `illume trace`, which follows its samples through the run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RecipeError

FORMAT = 1
SPIKE_REPORT = "spike.json"
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class SpikeReport:
    """What was recorded of a step."""

    folder: Path
    message: str
    learning_rates: Sequence[float]
    gradient_norms: Mapping[str, float]  # by part of the model
    samples: Sequence[Mapping[str, Any]]  # those with the highest losses first

    @property
    def sample_ids(self) -> list[str]:
        """Names of samples may be followed by those of their images."""
        return [name.partition(" ")[0] for found in self.samples for name in found["samples"]]


def has_spike_report(folder: Path) -> bool:
    return (folder / SPIKE_REPORT).is_file()


def read_spike_report(folder: Path) -> SpikeReport:
    """Raises: RecipeError: the folder holds no report that this version can read."""
    path = folder / SPIKE_REPORT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise RecipeError(f"{path}: format {found['format']}, expected {FORMAT}; use the version that wrote it")
        return SpikeReport(
            folder=folder,
            message=str(found["message"]),
            learning_rates=[float(rate) for rate in found["learning_rates"]],
            gradient_norms={str(part): float(norm) for part, norm in found["gradient_norms"].items()},
            samples=[_sample(sample) for sample in found["samples"]],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: not the report of a spike ({type(error).__name__}: {error})") from error


def _sample(found: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "samples": [str(name) for name in found["samples"]],
        "losses": {str(kind): float(loss) for kind, loss in found["losses"].items()},
        "source": str(found.get("source") or ""),
        "worker": int(found["worker"]),
        "micro_batch": int(found["micro_batch"]),
    }


def spike_text(report: SpikeReport) -> str:
    """For a terminal: what happened, where the gradient was large, and which samples had the highest losses."""
    rates = ", ".join(f"{rate:.3g}" for rate in report.learning_rates)
    parts = sorted(report.gradient_norms.items(), key=lambda item: -item[1])[:SHOWN]
    lines = [report.message, f"  learning rates {rates}", "  gradient norm by part, largest first:"]
    lines += [f"    {part}: {norm:.4g}" for part, norm in parts]
    lines.append("  samples with the highest losses:")
    for found in report.samples[:SHOWN]:
        losses = ", ".join(f"{kind} {loss:.4g}" for kind, loss in found["losses"].items()) or "nothing trained"
        names = ", ".join(name.partition(" ")[0][:16] for name in found["samples"][:4]) or "not named"
        source = f", from {found['source']}" if found["source"] else ""
        lines.append(f"    {names}: {losses}{source}; worker {found['worker']}, micro-batch {found['micro_batch']}")
    files = sorted(path.name for path in report.folder.iterdir() if path.name != SPIKE_REPORT)
    lines += [f"  files in {report.folder}: {', '.join(files[:SHOWN])}" + (" ..." if len(files) > SHOWN else "")]
    return "\n".join(lines if files else lines[:-1])
