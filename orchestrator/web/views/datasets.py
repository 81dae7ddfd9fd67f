"""The datasets: versions by name, what was kept of each, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import ArtifactKey, Manifest
from orchestrator.artifacts.manifest_summary import counted_rows
from orchestrator.artifacts.takedowns import Takedown, read_takedowns, taken_down_text
from orchestrator.errors import OrchestratorError
from orchestrator.history.made_artifacts import MadeArtifact, made_artifacts
from orchestrator.recipe.loading import Kinds
from orchestrator.web.addresses import link
from orchestrator.web.service import Service
from orchestrator.workspace import Workspace

DATASET_KINDS = ("dataset@1", "records@1", "raw@1", "tokens@1", "scores@1")  # what holds samples
PAGE_DATASETS = 40
VERDICTS = ("keep", "duplicate", "near_duplicate", "drop", "quarantined")
REASON = "reason "  # how metrics name the reasons of verdicts


@dataclass(frozen=True, kw_only=True)
class Verdict:
    name: str
    count: float


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """One version."""

    fingerprint: str
    stage: str
    stage_kind: str
    kind: str
    recipe: str
    run: str  # that made it
    made_at: float  # seconds since 1970
    rows: float | None  # kept, or all where nothing is judged; None: not known any more
    bytes: int | None
    verdicts: tuple[Verdict, ...]
    taken_down: str  # by which takedown; empty: by none
    is_there: bool
    link: str


@dataclass(frozen=True, kw_only=True)
class DatasetsView:
    datasets: tuple[DatasetRow, ...]  # newest first
    older: str  # value of `before` for the next page; empty: there is none


def load_datasets(service: Service, text: str, before: float | None) -> DatasetsView:
    workspace = service.workspace()
    kinds = stage_kinds_of(service.settings.kinds)
    found = made_artifacts(workspace.database, kinds, text=text, before=before, limit=PAGE_DATASETS + 1)
    shown = found[:PAGE_DATASETS]
    manifests = service.manifests.of(workspace.artifacts, [key_of(made) for made in shown])
    takedowns = known_takedowns(workspace)
    rows = tuple(dataset_row(made, manifests.get(key_of(made)), takedowns) for made in shown)
    return DatasetsView(datasets=rows, older=repr(shown[-1].made_at) if len(found) > PAGE_DATASETS else "")


def stage_kinds_of(kinds: Kinds) -> list[str]:
    """The kinds of stages that make datasets."""
    return [kind.name for kind in kinds.values() if kind.output in DATASET_KINDS]


def key_of(made: MadeArtifact) -> ArtifactKey:
    return ArtifactKey(made.stage_kind, made.fingerprint)


def known_takedowns(workspace: Workspace) -> Sequence[Takedown]:
    """None if the store is away, which stands above every page."""
    try:
        return read_takedowns(workspace.store)
    except OrchestratorError:
        return ()


def dataset_row(made: MadeArtifact, manifest: Manifest | None, takedowns: Sequence[Takedown]) -> DatasetRow:
    metrics: Mapping[str, float] = manifest.metrics if manifest is not None else {}
    return DatasetRow(
        fingerprint=made.fingerprint,
        stage=made.stage_id,
        stage_kind=made.stage_kind,
        kind=manifest.kind if manifest is not None else "",
        recipe=made.recipe,
        run=made.run_id,
        made_at=made.made_at,
        rows=_rows(manifest) if manifest is not None else None,
        bytes=sum(entry.bytes for entry in manifest.files) if manifest is not None else None,
        verdicts=tuple(Verdict(name=name, count=metrics[name]) for name in VERDICTS if name in metrics),
        taken_down=taken_down_text(takedowns, made.fingerprint),
        is_there=manifest is not None,
        link=link("datasets", made.fingerprint),
    )


def _rows(manifest: Manifest) -> float | None:
    for name in ("keep", "rows"):
        if name in manifest.metrics:
            return manifest.metrics[name]
    counted = counted_rows(manifest.files)
    return None if counted is None else float(counted)
