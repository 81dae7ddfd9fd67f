"""The receipt of a takedown: what was tainted, what was deleted, what replaced it, and what is still open."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator.artifact import JSON
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.identity import to_json
from orchestrator.planning.plan import Plan, tainted_stages
from orchestrator.recipe.loading import Kinds
from orchestrator.reports.attestation import statement
from orchestrator.retention.old_versions import NO_VERSIONS, FoundVersions, find_old_versions
from orchestrator.retention.taint_removal import tainted_files, tainted_folders, unretracted_records
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace
from stages.provenance.takedown import newest_plans, shards_holding

PREDICATE_TYPE = "urn:illume:takedown:1"


@dataclass(frozen=True, kw_only=True)
class Successor:
    """An artifact of the newest run of a recipe that replaces a tainted one."""

    recipe: str
    stage: str
    kind: str
    fingerprint: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    takedown: Takedown
    valid_records: tuple[str, ...]  # commit records of tainted artifacts that are not retracted
    files: tuple[str, ...]  # folders of retracted artifacts and shards that are not deleted yet
    shards_found: int  # finished shards that hold rows about the samples now
    successors: tuple[Successor, ...]
    recipes_to_rerun: tuple[str, ...]  # whose newest run used tainted artifacts
    old: FoundVersions = NO_VERSIONS  # of tainted files in a bucket that keeps versions

    @property
    def open_points(self) -> list[str]:
        """What is still to do, as sentences; empty if the takedown is complete."""
        points = []
        if self.valid_records:
            points.append(
                f"{len(self.valid_records)} commit records are still in force: repeat `illume takedown apply`"
            )
        if self.shards_found:
            points.append(f"{self.shards_found} shards hold it now: draw up and apply another takedown")
        if self.files:
            points.append(f"{len(self.files)} folders are not deleted: `illume gc --delete`")
        if self.old.versions:
            points.append(
                f"{len(self.old.versions)} old versions in the bucket can still be read (`old_versions` of the receipt "
                "names each): let a lifecycle rule for old versions remove them, or delete them by key and version"
            )
        if self.old.unknown:
            points.append(f"the bucket does not say if it keeps old versions: {self.old.unknown}")
        points += [f"recipe {name!r} was not run again since: `illume run`" for name in self.recipes_to_rerun]
        return points

    def statement(self) -> dict[str, JSON]:
        """An in-toto statement whose subjects are the successors of the tainted artifacts."""
        subjects = [(f"{new.recipe}/{new.stage}@{new.fingerprint}", new.manifest_sha256) for new in self.successors]
        deleted = [artifact for artifact in self.takedown.tainted if not artifact.is_kept]
        predicate: dict[str, JSON] = {
            "takedown": self.takedown.id,
            "note": self.takedown.note,
            "took_effect": self.takedown.created,
            "applied_by": self.takedown.by,
            "due": self.takedown.due,
            "issued": iso_time(time.time()),
            "content": {kind: to_json(sorted(marks)) for kind, marks in self.takedown.content.items()},
            "deleted": [to_json(artifact) for artifact in deleted],
            "deleted_shards": [[key.stage_kind, key.fingerprint] for key in self.takedown.shards],
            "marked_models": [to_json(artifact) for artifact in self.takedown.tainted if artifact.is_kept],
            "cleared": to_json(sorted(self.takedown.cleared)),
            "successors": [asdict(successor) for successor in self.successors],
            "old_versions": [asdict(version) for version in self.old.versions],
            "outside_the_store": to_json(self.takedown.outside),
            "open": to_json(self.open_points),
            "complete": not self.open_points,
        }
        return statement(subjects, predicate_type=PREDICATE_TYPE, predicate=predicate)


def make_receipt(workspace: Workspace, kinds: Kinds, takedown: Takedown, *, search: bool = True) -> Receipt:
    """The receipt for the present state of the store; every finished shard is searched again if `search` is set."""
    from data_pipelines.datasets.tombstones import DIGEST_MARKS

    files = tainted_files(workspace.artifacts, [takedown], is_live=workspace.is_live)
    wanted = takedown.content.get(DIGEST_MARKS, frozenset()) if search else frozenset()
    holding, _ = shards_holding(workspace, wanted)
    newest = list(newest_plans(workspace, kinds))
    clean = [plan for plan in newest if not tainted_stages(plan, [takedown])]
    return Receipt(
        takedown=takedown,
        valid_records=tuple(unretracted_records(workspace.artifacts, takedown)),
        files=tuple(item.key for item in files),
        shards_found=len(holding),
        successors=tuple(_successors(workspace, clean, takedown)),
        recipes_to_rerun=tuple(plan.recipe for plan in newest if plan not in clean),
        old=find_old_versions(workspace.store, tainted_folders(takedown)),
    )


def _successors(workspace: Workspace, plans: Sequence[Plan], takedown: Takedown) -> Iterator[Successor]:
    """The artifacts of the plans that are of the same stage kinds as the tainted ones."""
    kinds = {artifact.stage_kind for artifact in takedown.tainted}
    manifests: Mapping[str, str] = {
        str(artifact.manifest.fingerprint): artifact.manifest_sha256 for artifact in workspace.artifacts.all()
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
