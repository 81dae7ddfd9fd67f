"""Finds what a takedown of samples affects: shards, artifacts, models trained on them, and the stages to run again.

Everything in the store is searched, whichever run made it. What cannot be shown to be clean counts as tainted.
"""

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import StoredArtifact
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.artifacts.takedowns import TaintedArtifact, Takedown, payload_inputs
from orchestrator.errors import CorruptArtifactError, OrchestratorError
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.store_view import plan_view
from orchestrator.recipe.loading import Kinds
from orchestrator.stage import Recipe
from orchestrator.store.store import Store
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace
from stages.provenance.declared import Declared, declared
from stages.provenance.exposures import TrainingExposure, training_exposures
from stages.provenance.restarts import find_restarts
from stages.provenance.trace import CANNOT_BE_SHOWN, DATASET

if TYPE_CHECKING:
    from data_pipelines.datasets.tombstones import HeldRows, Tombstones
    from data_pipelines.provenance.questions import Questions
    from data_pipelines.provenance.sample_search import Match

NUM_SEARCHED_RUNS = 10_000
NUM_SEARCH_THREADS = 16
ORPHAN = f"{CANNOT_BE_SHOWN}: what it was made from is gone"
MAX_SOURCE_LOCATIONS = 10_000  # rows of source files that are listed


@dataclass(kw_only=True)
class TakedownPlan:
    """A takedown that has not taken effect, and its consequences."""

    takedown: Takedown
    state: str  # of the store when the plan was made, see `store_state`
    matches: dict[str, list["Match"]] = field(default_factory=dict)  # by dataset, "<stage> <identity>"
    datasets: dict[str, ArtifactKey] = field(default_factory=dict)  # those of `matches`
    unanswered: list[str] = field(default_factory=list)  # questions without a match in the store
    shards_by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)  # stage kind -> (tainted, all) shards
    reruns: list[Plan] = field(default_factory=list)  # of the newest run of each recipe that must run again
    cleared: list[str] = field(default_factory=list)  # "<stage> (<kind> <identity>)" of `takedown.cleared`
    clean_checkpoints: dict[str, int] = field(default_factory=dict)  # "<kind> <identity>" -> step of the newest kept
    untraceable: list[str] = field(default_factory=list)  # runs whose plan can no longer be read, and why


def make_takedown_plan(
    workspace: Workspace,
    kinds: Kinds,
    questions: "Questions",
    *,
    takedown_id: str,
    note: str = "",
    due: str = "",
    restart: bool = True,
) -> TakedownPlan:
    """Find everything that a takedown affects. Changes nothing.

    `restart`: trainings that are made again begin with their newest clean checkpoint, if they have one.

    Raises: DatasetError, CorruptArtifactError: something that must be searched cannot be read.
    """
    stored = {str(artifact.manifest.fingerprint): artifact for artifact in workspace.artifacts.all()}
    matches, unanswered = _search(workspace, stored, questions)
    tombstones = _tombstones(workspace, stored, questions, matches)
    holding, counts = shards_holding(workspace, tombstones.digests)
    takedown_plan = TakedownPlan(
        takedown=Takedown(id=takedown_id, note=note, created=iso_time(time.time()), content={}, due=due),
        state=store_state(workspace),
        matches=matches,
        datasets={
            _dataset_name(artifact): artifact.manifest.key
            for artifact in stored.values()
            if artifact.manifest.kind == DATASET
        },
        unanswered=unanswered,
        shards_by_kind=counts,
    )
    facts = {name: declared(artifact.manifest, kinds) for name, artifact in stored.items()}
    affected = _affected_artifacts(stored, facts, {key.fingerprint for key in holding})
    trainings = {name for name in affected if facts[name].is_training}
    exposures, takedown_plan.untraceable = training_exposures(workspace, kinds, trainings, tombstones.digests)
    tainted, cleared = _find_tainted(stored, facts, affected, {key.fingerprint for key in holding}, exposures)
    restarts = find_restarts(workspace, kinds, tombstones.digests, tainted)
    from data_pipelines.datasets.tombstones import tombstones_to_marks

    takedown_plan.clean_checkpoints = {f"{found.stage_kind} {found.fingerprint[:12]}": found.step for found in restarts}
    takedown_plan.takedown = replace(
        takedown_plan.takedown,
        content=tombstones_to_marks(tombstones),
        tainted=tuple(tainted),
        cleared=frozenset(cleared),
        examined=frozenset(stored) - {artifact.fingerprint for artifact in tainted},
        shards=tuple(sorted(holding)),
        outside=tuple(_source_locations(matches)),
        restarts=tuple(restarts) if restart else (),
    )
    takedown_plan.cleared = [_title(stored[name]) for name in cleared]
    takedown_plan.reruns = list(_reruns(workspace, kinds, takedown_plan.takedown))
    return takedown_plan


def store_state(workspace: Workspace) -> str:
    """A digest of all committed artifacts and shards, which changes whenever one is committed or retracted."""
    keys = [f"{artifact.manifest.key}" for artifact in workspace.artifacts.all()]
    keys = sorted([*keys, *(f"shard {shard.key}" for shard in workspace.ledger.all())])
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def shards_holding(
    workspace: Workspace, digests: frozenset[str]
) -> tuple[set[ArtifactKey], dict[str, tuple[int, int]]]:
    """The finished shards with rows about the samples or images, and for each stage kind (number of them, of all).

    Tables that name samples only, such as scores, are searched for all samples that other shards show these images in.
    """
    found: set[ArtifactKey] = set()
    samples: set[str] = set()
    by_sample: list[StoredShard] = []
    totals: Counter[str] = Counter()
    for shard, tables in _search_shards(workspace.store, workspace.ledger.all() if digests else (), digests):
        totals[shard.key.stage_kind] += 1
        samples.update(*(table.samples for table in tables))
        if any(table.rows for table in tables):
            found.add(shard.key)
        elif any(table.names_samples_only for table in tables):
            by_sample.append(shard)
    more = frozenset(samples - digests)
    for shard, tables in _search_shards(workspace.store, by_sample if more else (), more):
        if any(table.rows and table.names_samples_only for table in tables):
            found.add(shard.key)
    counts = Counter(key.stage_kind for key in found)
    return found, {kind: (counts[kind], totals[kind]) for kind in sorted(counts)}


def _search_shards(
    store: Store, shards: Iterable[StoredShard], digests: frozenset[str]
) -> Iterator[tuple[StoredShard, list["HeldRows"]]]:
    """The rows about samples and images in each table of each shard; many shards at a time, as stores are slow."""
    from data_pipelines.datasets.tombstones import find_held_rows

    def search(shard: StoredShard) -> tuple[StoredShard, list["HeldRows"]]:
        return shard, [find_held_rows(path, digests) for path in _parquet_files(store, shard)]

    with ThreadPoolExecutor(NUM_SEARCH_THREADS) as threads:
        yield from threads.map(search, shards)


def _parquet_files(store: Store, shard: StoredShard) -> Iterator[Path]:
    """The shard's tables, one at a time; of a remote store only these are downloaded."""
    for file in shard.files:
        if not file.path.endswith(".parquet"):
            continue
        key = shard.key_of(file.path)
        local = store.local(key)
        if local is not None:
            yield local
            continue
        with tempfile.TemporaryDirectory(prefix="takedown-") as folder:
            path = Path(folder) / "table.parquet"
            if store.download(key, path) is None:
                raise CorruptArtifactError(f"{store.url}: {key}: is gone; run `illume verify --heal`")
            yield path


def _search(
    workspace: Workspace, stored: Mapping[str, StoredArtifact], questions: "Questions"
) -> tuple[dict[str, list["Match"]], list[str]]:
    """Per dataset, the samples that match a question or share an image with one; and the questions without a match."""
    from data_pipelines.datasets.tombstones import TAKEN_DOWN
    from data_pipelines.provenance.questions import Questions
    from data_pipelines.provenance.sample_search import find_everywhere, find_samples

    folders = _datasets(workspace, stored)
    found = find_everywhere(folders, questions)
    digests = _matched_digests(questions, found.matches)
    matches: dict[str, list[Match]] = {}
    for name, folder in folders.items():
        direct = found.matches.get(name, [])
        known = {match.sample_id for match in direct}
        more = (match for match in find_samples(folder, Questions(digests=digests)) if match.sample_id not in known)
        matches[name] = [match for match in (*direct, *more) if match.reason != TAKEN_DOWN]
    return matches, found.unanswered


def _datasets(workspace: Workspace, stored: Mapping[str, StoredArtifact]) -> dict[str, Path]:
    from data_pipelines.datasets.reader import is_table

    return {
        _dataset_name(artifact): workspace.artifacts.open(
            ArtifactKey(artifact.manifest.stage_kind, fingerprint), only=is_table
        ).path
        for fingerprint, artifact in sorted(stored.items())
        if artifact.manifest.kind == DATASET
    }


def _dataset_name(artifact: StoredArtifact) -> str:
    manifest = artifact.manifest
    return f"{manifest.provenance.get('stage', 'dataset')} {manifest.fingerprint[:12]}"


def _matched_digests(questions: "Questions", matches: Mapping[str, Sequence["Match"]]) -> set[str]:
    """Ids of all matching samples, and digests of their images; of a sample found by an image, that image only."""
    digests = set(questions.digests)
    for match in (match for found in matches.values() for match in found):
        digests.add(match.sample_id)
        if match.found_by == "image":
            digests.update(questions.digests.intersection(match.images))
        else:
            digests.update(match.images)
    return digests


def _tombstones(
    workspace: Workspace,
    stored: Mapping[str, StoredArtifact],
    questions: "Questions",
    matches: Mapping[str, Sequence["Match"]],
) -> "Tombstones":
    from data_pipelines.datasets.tombstones import Tombstones, image_phashes
    from data_pipelines.duplicates.near_hashes import near_limit

    phashes = {phash: questions.entropies.get(file) for file, phash in questions.phashes.items()}
    for folder in _datasets(workspace, stored).values() if questions.near else ():
        phashes = {**image_phashes(folder, frozenset(questions.digests)), **phashes}
    return Tombstones(
        digests=frozenset(_matched_digests(questions, matches)),
        phashes=frozenset(
            (phash, near_limit(phash, questions.near, entropy)) for phash, entropy in phashes.items() if questions.near
        ),
    )


def _affected_artifacts(
    stored: Mapping[str, StoredArtifact], facts: Mapping[str, Declared], shards: set[str]
) -> set[str]:
    """Fingerprints of the artifacts that contain one of the shards, and of everything made from them."""
    affected = {name for name, artifact in stored.items() if not shards.isdisjoint(artifact.manifest.shards)}
    for name in _upstream_first(stored) if affected else ():
        if not affected.isdisjoint(_inputs(stored[name])) or _is_orphan(stored[name], facts[name], stored):
            affected.add(name)
    return affected


def _is_orphan(artifact: StoredArtifact, facts: Declared, stored: Mapping[str, StoredArtifact]) -> bool:
    """Whether this is a model whose inputs are gone, so that what it was trained on can no longer be computed."""
    return facts.is_learned and not stored.keys() >= set(payload_inputs(artifact.manifest.payload))


def _upstream_first(stored: Mapping[str, StoredArtifact]) -> list[str]:
    ordered: dict[str, None] = {}
    pending = sorted(stored, reverse=True)
    while pending:
        name = pending[-1]
        waiting = [parent for parent in _inputs(stored[name]) if parent in stored and parent not in ordered]
        if name in ordered or not waiting:
            ordered[pending.pop()] = None
        else:
            pending += waiting
    return list(ordered)


def _inputs(artifact: StoredArtifact) -> list[str]:
    return [str(fingerprint) for slot in artifact.manifest.inputs.values() for fingerprint in slot]


def _find_tainted(
    stored: Mapping[str, StoredArtifact],
    facts: Mapping[str, Declared],
    affected: set[str],
    shards: set[str],
    exposures: Mapping[str, TrainingExposure],
) -> tuple[list[TaintedArtifact], list[str]]:
    """The tainted artifacts, upstream first, and those that are clean although they were made from tainted ones."""
    tainted: dict[str, TaintedArtifact] = {}
    cleared: list[str] = []
    for name in _upstream_first(stored):
        artifact = stored[name]
        why = ""
        if name in affected:
            is_orphan = _is_orphan(artifact, facts[name], stored)
            why = ORPHAN if is_orphan else _taint_reason(artifact, facts[name], tainted, shards, exposures.get(name))
        if why:
            tainted[name] = _tainted(artifact, why, is_kept=facts[name].is_learned)
        elif not tainted.keys().isdisjoint(_inputs(artifact)):
            cleared.append(name)
    return list(tainted.values()), cleared


def _taint_reason(
    artifact: StoredArtifact,
    facts: Declared,
    tainted: Mapping[str, TaintedArtifact],
    shards: set[str],
    exposure: TrainingExposure | None,
) -> str:
    """Why the artifact is tainted, in a few words; "" if it is clean."""
    manifest = artifact.manifest
    num_shards = len(shards.intersection(manifest.shards))
    if num_shards:
        return f"holds it in {num_shards} of {len(manifest.shards)} shards"
    from_tainted = [tainted[name] for name in _inputs(artifact) if name in tainted]
    if not from_tainted:
        return ""
    models = [parent for parent in from_tainted if parent.is_kept]
    if facts.is_training and exposure is not None and exposure.steps:
        return f"saw it in {len(exposure.steps)} steps, first in step {exposure.steps[0]}"
    if models:
        return f"made from {models[0].kind} {models[0].fingerprint[:12]}"
    if facts.is_training:
        problem = "no plan names it any more" if exposure is None else exposure.problem
        return f"{CANNOT_BE_SHOWN}: {problem}" if problem else ""
    if facts.rows_name_samples:  # and none is affected
        return ""
    return f"made from {from_tainted[0].kind} {from_tainted[0].fingerprint[:12]}"


def _title(artifact: StoredArtifact) -> str:
    manifest = artifact.manifest
    return f"{manifest.provenance.get('stage', '')} ({manifest.kind} {manifest.fingerprint[:12]})"


def _tainted(artifact: StoredArtifact, why: str, *, is_kept: bool) -> TaintedArtifact:
    manifest = artifact.manifest
    return TaintedArtifact(
        stage_kind=manifest.stage_kind,
        fingerprint=str(manifest.fingerprint),
        kind=manifest.kind,
        why=why,
        is_kept=is_kept,
        manifest_sha256=artifact.manifest_sha256,
        bytes=sum(file.bytes for file in manifest.files),
        run_id=str(manifest.provenance.get("run", "")),
        stage_id=str(manifest.provenance.get("stage", "")),
        attempt_id=str(manifest.provenance.get("attempt", "")),
    )


def _source_locations(matches: Mapping[str, Sequence["Match"]]) -> list[str]:
    """The rows of the source files that contain the samples; deleting them there is up to the owner of the files."""
    found = [match for dataset in matches.values() for match in dataset]
    locations = {
        f"{match.source}: {match.source_file}, row {match.source_row}"
        + (f", {match.external_id}" if match.external_id else "")
        for match in found
    }
    return sorted(locations)[:MAX_SOURCE_LOCATIONS]


def newest_plans(workspace: Workspace, kinds: Kinds) -> Iterator[Plan]:
    """The plan of the newest run of each recipe, if it can still be read."""
    known: set[str] = set()
    for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS):
        if run.recipe in known:
            continue
        known.add(run.recipe)
        try:
            yield workspace.plan_of(run.run_id, kinds, allow_changed_kinds=True)
        except OrchestratorError:
            continue  # its stage kinds no longer exist


def _reruns(workspace: Workspace, kinds: Kinds, takedown: Takedown) -> Iterator[Plan]:
    """The plan of each recipe that must run again, as if the takedown had taken effect."""
    view = plan_view(workspace.artifacts, workspace.database, on_absent=lambda _message: None)
    view = replace(view, takedowns=(*view.takedowns, takedown))
    for newest in newest_plans(workspace, kinds):
        recipe = Recipe(name=newest.recipe, stages=tuple(stage.spec for stage in newest.stages), file=newest.file)
        plan = make_plan(recipe, view)
        if plan.to_run:
            yield plan
