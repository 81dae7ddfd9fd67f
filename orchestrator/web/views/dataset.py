"""One dataset: what was kept and why not, where it comes from, what was made from it, and takedowns."""

from dataclasses import dataclass

from orchestrator.history.made_artifacts import StageUse, made_artifacts, uses_of
from orchestrator.web.addresses import link
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.datasets import (
    REASON,
    DatasetRow,
    Verdict,
    dataset_row,
    key_of,
    known_takedowns,
    stage_kinds_of,
)

NUM_USES = 50  # of the newest runs


@dataclass(frozen=True, kw_only=True)
class Relative:
    """What stands above or below a dataset."""

    stage: str
    stage_kind: str
    fingerprint: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Use:
    run: str
    recipe: str
    stage: str
    action: str  # of the plan
    at: float  # seconds since 1970, of the run
    link: str


@dataclass(frozen=True, kw_only=True)
class DatasetView:
    row: DatasetRow
    reasons: tuple[Verdict, ...]  # why samples were not kept, the most frequent first
    metrics: tuple[Verdict, ...]  # all others
    made_from: tuple[Relative, ...]
    made_into: tuple[Relative, ...]
    uses: tuple[Use, ...]  # the newest runs first
    audit: str  # the command that writes the page with pictures
    trace: str


def load_dataset(service: Service, fingerprint: str) -> DatasetView:
    """Raises: NotFoundError."""
    workspace = service.workspace()
    kinds = stage_kinds_of(service.settings.kinds)
    found = made_artifacts(workspace.database, kinds, text=fingerprint, limit=1)
    if not found or found[0].fingerprint != fingerprint:
        raise NotFoundError(f"dataset {fingerprint[:12]}: no run made it; `illume index rebuild` lists what is stored")
    made = found[0]
    manifest = service.manifests.of(workspace.artifacts, [key_of(made)]).get(key_of(made))
    row = dataset_row(made, manifest, known_takedowns(workspace))
    metrics = dict(manifest.metrics) if manifest is not None else {}
    reasons = {name.removeprefix(REASON): metrics.pop(name) for name in list(metrics) if name.startswith(REASON)}
    uses = uses_of(workspace.database, fingerprint, limit=NUM_USES)
    known = set(kinds)
    return DatasetView(
        row=row,
        reasons=tuple(
            Verdict(name=name, count=count) for name, count in sorted(reasons.items(), key=lambda item: -item[1])
        ),
        metrics=tuple(Verdict(name=name, count=metrics[name]) for name in sorted(metrics)),
        made_from=_relatives([use.upstream for use in uses], uses, known),
        made_into=_relatives([use.downstream for use in uses], uses, known),
        uses=tuple(
            Use(
                run=use.run_id,
                recipe=use.recipe,
                stage=use.stage_id,
                action=use.action,
                at=use.created_at,
                link=link("runs", use.run_id, "stages", use.stage_id),
            )
            for use in uses
        ),
        audit=f"illume audit {made.run_id}:{made.stage_id} --page audit.html",
        trace=f"illume trace SAMPLE --run {made.run_id}",
    )


def _relatives(
    around: list[tuple[tuple[str, str, str], ...]], uses: list[StageUse], datasets: set[str]
) -> tuple[Relative, ...]:
    found = {
        fingerprint: Relative(
            stage=stage,
            stage_kind=kind,
            fingerprint=fingerprint,
            link=link("datasets", fingerprint) if kind in datasets else link("runs", use.run_id, "stages", stage),
        )
        for use, neighbours in zip(reversed(uses), reversed(around), strict=True)
        for stage, kind, fingerprint in neighbours
    }
    return tuple(found.values())
