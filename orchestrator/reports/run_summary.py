"""What came out of a run and where it is: each stage's telling metrics, files and folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.artifact import FileEntry
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.history.run_status import RunStatus, StageStatus
from orchestrator.plugins.kind_words import headline_of, warnings_of
from orchestrator.reports.run_outputs import Output, RunOutputs
from orchestrator.stage import StageKind
from orchestrator.store.layout import artifact_site

NUM_METRICS = 3  # of a kind that does not say which tell the most


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """A stage of a run, with what it made."""

    status: StageStatus
    artifact_kind: str  # empty: nothing was made
    headline: str  # the telling metrics in a few words
    warnings: tuple[str, ...]  # what a reader of them must know
    metrics: Mapping[str, float]
    meanings: Mapping[str, str]  # of the declared metrics; names may hold `<...>`
    folder: str  # on this machine, or the address in the store; empty: nothing was made
    files: tuple[FileEntry, ...]
    seconds: float | None  # duration of the attempt that made it
    made_by_run: str  # which may be an earlier one

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


def stage_summaries(
    artifacts: ArtifactStore, status: RunStatus, outputs: RunOutputs, kinds: Mapping[str, StageKind[Any]]
) -> list[StageSummary]:
    """A summary of each stage, upstream first. A kind that is not in `kinds` any more has no words of its own."""
    return [_summary(artifacts, stage, outputs, kinds.get(stage.stage_kind)) for stage in status.stages]


def headline_text(kind: StageKind[Any] | None, metrics: Mapping[str, float]) -> str:
    """The telling metrics in a few words: the kind's own, or the first that it declares or returns."""
    if kind is not None and (headline := headline_of(kind, metrics)):
        return headline
    declared = [name for name in (kind.metrics if kind else ()) if name in metrics]
    return ", ".join(f"{name} {number_text(metrics[name])}" for name in (declared or list(metrics))[:NUM_METRICS])


def number_text(number: float) -> str:
    """`1,234`, `1,234.5`, `0.3142`, `2.5e-05`."""
    if abs(number) >= 1e15:
        return f"{number:.4g}"
    if float(number).is_integer():
        return f"{number:,.0f}"
    return f"{number:,.1f}" if abs(number) >= 1000 else f"{number:.4g}"


def folder_of(artifacts: ArtifactStore, output: Output) -> str:
    """The folder of an output's files: a path on this machine, or an address in the store."""
    key = artifact_site(output.manifest.key).data_key(output.attempt_id)
    path = artifacts.store.local(key)
    return str(path) if path is not None else _address(artifacts.store.url, key)


def _address(store_url: str, key: str) -> str:
    """The address of a key; what follows `?` in the store's address is how to reach it, not where it is."""
    return f"{store_url.partition('?')[0].rstrip('/')}/{key}"


def _summary(
    artifacts: ArtifactStore, stage: StageStatus, outputs: RunOutputs, kind: StageKind[Any] | None
) -> StageSummary:
    made = outputs.stages.get(stage.stage_id)
    output = made.output if made else None
    metrics = output.manifest.metrics if output else {}
    return StageSummary(
        status=stage,
        artifact_kind=output.manifest.kind if output else "",
        headline=headline_text(kind, metrics),
        warnings=warnings_of(kind, metrics) if kind else (),
        metrics=metrics,
        meanings=kind.metrics if kind else {},
        folder=folder_of(artifacts, output) if output else "",
        files=output.manifest.files if output else (),
        seconds=made.seconds if made else None,
        made_by_run=str(output.manifest.provenance.get("run", "")) if output else "",
    )
