"""What must go when samples are taken down: shards, artifacts, models that saw them, and the stages to run again.

Everything in the store is looked at, whichever run made it. What cannot be shown clean counts as tainted.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.artifacts.artifact_store import StoredArtifact
from orchestrator.artifacts.shard_ledger import StoredShard
from orchestrator.artifacts.takedowns import Place, TaintedArtifact, Takedown
from orchestrator.errors import CorruptArtifactError, OrchestratorError
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.store_view import plan_view
from orchestrator.recipe.loading import Kinds
from orchestrator.stage import Recipe
from orchestrator.store.store import Store
from orchestrator.workspace import Workspace
from stages.provenance.trace import MODELS, TRAININGS, trace_run

if TYPE_CHECKING:
    from data_pipelines.datasets.tombstones import Held, Tombstones
    from data_pipelines.provenance.sample_search import Match, Questions

KEPT_KINDS = (*MODELS, "vocabulary@1")  # what was learned: it is marked and not deleted
NUM_SEARCHED_RUNS = 10_000
SHARDS_AT_ONCE = 16  # searched beside one another
ORPHAN = "cannot be shown clean: what it was made from is gone"
MAX_OUTSIDE = 10_000  # places in source files that are listed


@dataclass(kw_only=True)
class Draft:
    """A takedown that has not taken effect, and what it would mean."""

    takedown: Takedown
    state: str  # of the store when it was drawn up, see `store_state`
    matches: dict[str, list["Match"]] = field(default_factory=dict)  # by dataset, "<stage> <identity>"
    unanswered: list[str] = field(default_factory=list)  # questions that nothing in the store answers
    shards_by_kind: dict[str, tuple[int, int]] = field(default_factory=dict)  # stage kind -> (hold it, all)
    reruns: list[Plan] = field(default_factory=list)  # of the newest run of each recipe that must run again
    cleared: list[str] = field(default_factory=list)  # "<stage> (<kind> <identity>)" of `takedown.cleared`
    clean_checkpoints: dict[str, int] = field(default_factory=dict)  # "<stage> <identity>" -> step of the newest kept
    untraceable: list[str] = field(default_factory=list)  # runs whose plan cannot be read any more, and why


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a training saw of the samples, if that could be computed."""

    steps: tuple[int, ...] = ()
    problem: str = ""


def draft_takedown(
    workspace: Workspace, kinds: Kinds, questions: "Questions", *, takedown_id: str, note: str = ""
) -> Draft:
    """Find everything that a takedown concerns. Changes nothing.

    Raises: DatasetError, CorruptArtifactError: something that must be searched cannot be read.
    """
    stored = {str(one.manifest.fingerprint): one for one in workspace.artifacts.all()}
    matches, unanswered = _search(workspace, stored, questions)
    tombstones = _tombstones(workspace, stored, questions, matches)
    holding, counts = shards_holding(workspace, tombstones.digests)
    draft = Draft(
        takedown=Takedown(id=takedown_id, note=note, created=datetime.now(UTC).isoformat(), content={}),
        state=store_state(workspace),
        matches=matches,
        unanswered=unanswered,
        shards_by_kind=counts,
    )
    touched = _made_from(stored, {place[1] for place in holding})
    seen = _exposures(workspace, kinds, stored, touched, tombstones.digests, draft) if touched else {}
    tainted, cleared = _judge(stored, touched, {place[1] for place in holding}, seen)
    from data_pipelines.datasets.tombstones import marks_of

    draft.takedown = replace(
        draft.takedown,
        content=marks_of(tombstones),
        tainted=tuple(tainted),
        cleared=frozenset(cleared),
        shards=tuple(sorted(holding)),
        outside=tuple(_outside(matches)),
    )
    draft.cleared = [_title(stored[name]) for name in cleared]
    draft.reruns = list(_reruns(workspace, kinds, draft.takedown))
    return draft


def store_state(workspace: Workspace) -> str:
    """Changes whenever an artifact is committed or given up."""
    places = sorted(f"{one.manifest.stage_kind}/{one.manifest.fingerprint}" for one in workspace.artifacts.all())
    return hashlib.sha256(json.dumps(places).encode()).hexdigest()


def shards_holding(workspace: Workspace, digests: frozenset[str]) -> tuple[set[Place], dict[str, tuple[int, int]]]:
    """The finished shards with rows about some samples or pictures; for each stage kind how many of how many.

    What names samples alone, such as a table of scores, is found by those that other shards show the pictures with.
    """
    found: set[Place] = set()
    samples: set[str] = set()
    by_sample: list[StoredShard] = []
    totals: Counter[str] = Counter()
    for shard, tables in _held(workspace.store, workspace.ledger.all() if digests else (), digests):
        totals[shard.stage_kind] += 1
        samples.update(*(table.samples for table in tables))
        if any(table.rows for table in tables):
            found.add((shard.stage_kind, shard.fingerprint))
        elif any(table.names_samples_only for table in tables):
            by_sample.append(shard)
    more = frozenset(samples - digests)
    for shard, tables in _held(workspace.store, by_sample if more else (), more):
        if any(table.rows and table.names_samples_only for table in tables):
            found.add((shard.stage_kind, shard.fingerprint))
    counts = Counter(stage_kind for stage_kind, _ in found)
    return found, {kind: (counts[kind], totals[kind]) for kind in sorted(counts)}


def _held(
    store: Store, shards: Iterable[StoredShard], digests: frozenset[str]
) -> Iterator[tuple[StoredShard, list["Held"]]]:
    """What each table of each shard has about samples and pictures; many at a time, as stores take long to answer."""
    from data_pipelines.datasets.tombstones import held

    def search(shard: StoredShard) -> tuple[StoredShard, list["Held"]]:
        return shard, [held(path, digests) for path in _parquet_files(store, shard)]

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        yield from threads.map(search, shards)


def _parquet_files(store: Store, shard: StoredShard) -> Iterator[Path]:
    """The shard's tables, one at a time; from a remote store nothing else is downloaded."""
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
    """What answers in any dataset, and all that shares a picture with it."""
    from data_pipelines.datasets.tombstones import TAKEN_DOWN
    from data_pipelines.provenance.questions import Questions
    from data_pipelines.provenance.sample_search import find_everywhere, find_samples

    folders = _datasets(workspace, stored)
    found = find_everywhere(folders, questions)
    digests = _digests_of(questions, found.matches)
    matches: dict[str, list[Match]] = {}
    for name, folder in folders.items():
        alike = found.matches.get(name, [])
        known = {match.sample_id for match in alike}
        more = (match for match in find_samples(folder, Questions(digests=digests)) if match.sample_id not in known)
        matches[name] = [match for match in (*alike, *more) if match.reason != TAKEN_DOWN]
    return matches, found.unanswered


def _datasets(workspace: Workspace, stored: Mapping[str, StoredArtifact]) -> dict[str, Path]:
    from data_pipelines.datasets.reader import is_table

    return {
        f"{one.manifest.provenance.get('stage', 'dataset')} {fingerprint[:12]}": workspace.artifacts.open(
            one.manifest.stage_kind, fingerprint, only=is_table
        ).path
        for fingerprint, one in sorted(stored.items())
        if one.manifest.kind == "dataset@1"
    }


def _digests_of(questions: "Questions", matches: Mapping[str, Sequence["Match"]]) -> set[str]:
    """Ids of all samples that answer, and their pictures; of one that was found by a picture, that picture alone."""
    digests = set(questions.digests)
    for match in (one for found in matches.values() for one in found):
        digests.add(match.sample_id)
        if match.found_by == "picture":
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
    from data_pipelines.datasets.tombstones import Tombstones, looks_of

    looks = set(questions.phashes.values())
    for folder in _datasets(workspace, stored).values() if questions.near else ():
        looks |= looks_of(folder, frozenset(questions.digests))
    return Tombstones(
        digests=frozenset(_digests_of(questions, matches)),
        looks=frozenset((look, questions.near) for look in looks) if questions.near else frozenset(),
    )


def _made_from(stored: Mapping[str, StoredArtifact], shards: set[str]) -> set[str]:
    """Fingerprints of artifacts that hold one of the shards, and of all that was made from such ones."""
    touched = {name for name, one in stored.items() if not shards.isdisjoint(one.manifest.shards)}
    for name in _upstream_first(stored) if touched else ():
        if not touched.isdisjoint(_inputs(stored[name])) or _is_orphan(stored[name], stored):
            touched.add(name)
    return touched


def _is_orphan(one: StoredArtifact, stored: Mapping[str, StoredArtifact]) -> bool:
    """A model whose inputs are gone: what it saw cannot be computed any more."""
    return one.manifest.kind in KEPT_KINDS and not stored.keys() >= set(_inputs(one))


def _upstream_first(stored: Mapping[str, StoredArtifact]) -> list[str]:
    ordered: dict[str, None] = {}
    pending = sorted(stored, reverse=True)
    while pending:
        name = pending[-1]
        waiting = [one for one in _inputs(stored[name]) if one in stored and one not in ordered]
        if name in ordered or not waiting:
            ordered[pending.pop()] = None
        else:
            pending += waiting
    return list(ordered)


def _inputs(one: StoredArtifact) -> list[str]:
    return [str(fingerprint) for slot in one.manifest.inputs.values() for fingerprint in slot]


def _exposures(
    workspace: Workspace,
    kinds: Kinds,
    stored: Mapping[str, StoredArtifact],
    touched: set[str],
    digests: frozenset[str],
    draft: Draft,
) -> dict[str, _Seen]:
    """For the trainings among `touched`, by fingerprint. Those that no readable plan names are absent."""
    from data_pipelines.provenance.questions import Questions

    wanted = {name for name in touched if stored[name].manifest.stage_kind in TRAININGS}
    seen: dict[str, _Seen] = {}
    for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS):
        if wanted <= seen.keys():
            break
        try:
            plan = workspace.plan_of(run.run_id, kinds, only_to_look=True)
        except OrchestratorError as error:
            draft.untraceable.append(f"run {run.run_id}: {error}")
            continue
        asked = [stage for stage in plan.stages if stage.fingerprint in wanted - seen.keys()]
        if not asked:
            continue
        try:
            trace = trace_run(workspace, plan, Questions(digests=set(digests)))
        except (OrchestratorError, ValueError) as error:
            seen.update({str(stage.fingerprint): _Seen(problem=str(error)) for stage in asked})
            continue
        for stage in asked:
            if stage.id in trace.unknown:
                seen[str(stage.fingerprint)] = _Seen(problem="its data are gone, or older code made it")
                continue
            steps = {step for one in trace.exposures if one.stage == stage.id for step in one.steps}
            seen[str(stage.fingerprint)] = _Seen(steps=tuple(sorted(steps)))
            if trace.newest_clean.get(stage.id) is not None:
                draft.clean_checkpoints[f"{stage.id} {stage.fingerprint[:12]}"] = trace.newest_clean[stage.id] or 0
    return seen


def _judge(
    stored: Mapping[str, StoredArtifact], touched: set[str], shards: set[str], seen: Mapping[str, _Seen]
) -> tuple[list[TaintedArtifact], list[str]]:
    """What is tainted, upstream first, and what reads tainted artifacts and is clean all the same."""
    tainted: dict[str, TaintedArtifact] = {}
    cleared: list[str] = []
    for name in _upstream_first(stored):
        one = stored[name]
        why = ""
        if name in touched:
            why = ORPHAN if _is_orphan(one, stored) else _why_tainted(one, tainted, shards, seen.get(name))
        if why:
            tainted[name] = _tainted(one, why)
        elif not tainted.keys().isdisjoint(_inputs(one)):
            cleared.append(name)
    return list(tainted.values()), cleared


def _why_tainted(
    one: StoredArtifact, tainted: Mapping[str, TaintedArtifact], shards: set[str], seen: _Seen | None
) -> str:
    """In a few words; "" if the artifact is clean."""
    manifest = one.manifest
    num_shards = len(shards.intersection(manifest.shards))
    if num_shards:
        return f"holds it in {num_shards} of {len(manifest.shards)} shards"
    from_tainted = [tainted[name] for name in _inputs(one) if name in tainted]
    if not from_tainted:
        return ""
    models = [parent for parent in from_tainted if parent.kind in KEPT_KINDS]
    is_training = manifest.stage_kind in TRAININGS
    if is_training and seen is not None and seen.steps:
        return f"saw it in {len(seen.steps)} steps, first in step {seen.steps[0]}"
    if models:
        return f"made from {models[0].kind} {models[0].fingerprint[:12]}"
    if is_training:
        problem = "no plan names it any more" if seen is None else seen.problem
        return f"cannot be shown clean: {problem}" if problem else ""
    if manifest.kind == "tokens@1":  # every row names its sample, and none is concerned
        return ""
    return f"made from {from_tainted[0].kind} {from_tainted[0].fingerprint[:12]}"


def _title(one: StoredArtifact) -> str:
    manifest = one.manifest
    return f"{manifest.provenance.get('stage', '')} ({manifest.kind} {manifest.fingerprint[:12]})"


def _tainted(one: StoredArtifact, why: str) -> TaintedArtifact:
    manifest = one.manifest
    return TaintedArtifact(
        stage_kind=manifest.stage_kind,
        fingerprint=str(manifest.fingerprint),
        kind=manifest.kind,
        why=why,
        is_kept=manifest.kind in KEPT_KINDS,
        manifest_sha256=one.manifest_sha256,
        bytes=sum(file.bytes for file in manifest.files),
        run_id=str(manifest.provenance.get("run", "")),
        stage_id=str(manifest.provenance.get("stage", "")),
        attempt_id=str(manifest.provenance.get("attempt", "")),
    )


def _outside(matches: Mapping[str, Sequence["Match"]]) -> list[str]:
    """Where in the source files the samples stand; deleting them there is up to their owner."""
    places = {f"{one.source}: {one.source_file}, row {one.source_row}" for all_ in matches.values() for one in all_}
    return sorted(places)[:MAX_OUTSIDE]


def newest_plans(workspace: Workspace, kinds: Kinds) -> Iterator[Plan]:
    """The plan of the newest run of each recipe, as far as it can still be read."""
    known: set[str] = set()
    for run in list_runs(workspace.database, limit=NUM_SEARCHED_RUNS):
        if run.recipe in known:
            continue
        known.add(run.recipe)
        try:
            yield workspace.plan_of(run.run_id, kinds, only_to_look=True)
        except OrchestratorError:
            continue  # of stage kinds that are gone: it can only be planned anew


def _reruns(workspace: Workspace, kinds: Kinds, takedown: Takedown) -> Iterator[Plan]:
    """For each recipe the plan of running it again, as if the takedown had taken effect."""
    view = plan_view(workspace.artifacts, workspace.database, on_absent=lambda _message: None)
    view = replace(view, takedowns=(*view.takedowns, takedown))
    for then in newest_plans(workspace, kinds):
        recipe = Recipe(name=then.recipe, stages=tuple(stage.spec for stage in then.stages), file=then.file)
        plan = make_plan(recipe, view)
        if plan.to_run:
            yield plan
