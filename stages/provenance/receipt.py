"""The receipt of a takedown: what there was, what became of it, what took its place, and what is still open."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from orchestrator.artifact import JSON
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.identity import to_json
from orchestrator.planning.plan import Plan, tainted_stages
from orchestrator.recipe.loading import Kinds
from orchestrator.reports.attestation import statement
from orchestrator.retention.taint_removal import still_usable, tainted_files
from orchestrator.workspace import Workspace
from stages.provenance.takedown import newest_plans, shards_holding

PREDICATE_TYPE = "urn:illume:takedown:1"


@dataclass(frozen=True, kw_only=True)
class Successor:
    """An artifact of the newest run of a recipe."""

    recipe: str
    stage: str
    kind: str
    fingerprint: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    takedown: Takedown
    usable: tuple[str, ...]  # commit records that were not given up
    files: tuple[str, ...]  # folders of given up things that are not deleted yet
    shards_found: int  # finished shards that hold something of it now
    successors: tuple[Successor, ...]
    waiting: tuple[str, ...]  # recipes whose newest run used what is tainted

    @property
    def open_points(self) -> list[str]:
        """What is still to do, as sentences; none: the takedown is complete."""
        points = []
        if self.usable:
            points.append(f"{len(self.usable)} commit records are still in force: repeat `illume takedown apply`")
        if self.shards_found:
            points.append(f"{self.shards_found} shards hold it now: draw up and apply another takedown")
        if self.files:
            points.append(f"{len(self.files)} folders are not deleted: `illume gc --delete`")
        points += [f"recipe {name!r} was not run again since: `illume run`" for name in self.waiting]
        return points

    def statement(self) -> dict[str, JSON]:
        """As an in-toto statement about what took the place of the tainted artifacts."""
        subjects = [(f"{one.recipe}/{one.stage}@{one.fingerprint}", one.manifest_sha256) for one in self.successors]
        deleted = [one for one in self.takedown.tainted if not one.is_kept]
        predicate: dict[str, JSON] = {
            "takedown": self.takedown.id,
            "note": self.takedown.note,
            "took_effect": self.takedown.created,
            "issued": datetime.now(UTC).isoformat(),
            "content": {kind: to_json(sorted(marks)) for kind, marks in self.takedown.content.items()},
            "given_up": [to_json(one) for one in deleted],
            "given_up_shards": to_json(self.takedown.shards),
            "marked_models": [to_json(one) for one in self.takedown.tainted if one.is_kept],
            "cleared": to_json(sorted(self.takedown.cleared)),
            "successors": [asdict(one) for one in self.successors],
            "outside_the_store": to_json(self.takedown.outside),
            "open": to_json(self.open_points),
            "complete": not self.open_points,
        }
        return statement(subjects, predicate_type=PREDICATE_TYPE, predicate=predicate)


def make_receipt(workspace: Workspace, kinds: Kinds, takedown: Takedown) -> Receipt:
    """Look at the store as it is now; every finished shard is searched again."""
    from data_pipelines.datasets.tombstones import DIGESTS

    files = tainted_files(workspace.artifacts, [takedown], is_live=workspace.is_live)
    holding, _ = shards_holding(workspace, takedown.content.get(DIGESTS, frozenset()))
    newest = list(newest_plans(workspace, kinds))
    clean = [plan for plan in newest if not tainted_stages(plan, [takedown])]
    return Receipt(
        takedown=takedown,
        usable=tuple(still_usable(workspace.artifacts, takedown)),
        files=tuple(item.key for item in files),
        shards_found=len(holding),
        successors=tuple(_successors(workspace, clean, takedown)),
        waiting=tuple(plan.recipe for plan in newest if plan not in clean),
    )


def _successors(workspace: Workspace, plans: Sequence[Plan], takedown: Takedown) -> Iterator[Successor]:
    """What the plans made of the kinds that were tainted."""
    kinds = {one.stage_kind for one in takedown.tainted}
    manifests: Mapping[str, str] = {
        str(one.manifest.fingerprint): one.manifest_sha256 for one in workspace.artifacts.all()
    }
    for plan in plans:
        for stage in plan.stages:
            if stage.spec.kind.name in kinds and stage.fingerprint in manifests:
                yield Successor(
                    recipe=plan.recipe,
                    stage=stage.id,
                    kind=stage.spec.kind.output,
                    fingerprint=str(stage.fingerprint),
                    manifest_sha256=manifests[stage.fingerprint],
                )
