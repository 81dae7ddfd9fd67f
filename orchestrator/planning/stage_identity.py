"""The identity of each stage of a recipe, and its artifact in the store."""

import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.artifact import JSON, ArtifactKey, Fingerprint, Manifest
from orchestrator.artifacts.restarts import clean_restart, with_restart
from orchestrator.artifacts.takedowns import Restart, Takedown, payload_inputs, unknown_takedowns
from orchestrator.errors import RecipeError
from orchestrator.identity import fingerprint_of, semantic_config
from orchestrator.planning.code_digest import CodeDigest
from orchestrator.planning.reasons import CodePolicy, code_changes
from orchestrator.redaction.masking import mask_secrets
from orchestrator.stage import StageKind, StageSpec

PROVENANCE_CODE = "code"  # key of a manifest's provenance: `{"digest": ..., "files": {...}}` of `CodeDigest`


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """What planning reads. All functions are read-only."""

    find: Callable[[ArtifactKey], Manifest | None]  # the manifest of a committed artifact
    previous: Callable[[str, str, str], Mapping[str, JSON] | None] = lambda _recipe, _stage, _kind: None
    # (recipe, stage id, stage kind) -> the identity of its last output, even if that is gone
    sources: Callable[[StageSpec], Mapping[str, str]] = lambda _spec: {}  # stable name -> sha256 of files it reads
    code: Callable[[StageKind[typing.Any]], CodeDigest] = lambda _kind: CodeDigest()
    estimate_s: Callable[[str, StageSpec, Fingerprint, int | None], float | None] = lambda *_: None
    # (recipe, stage, identity, rows of its inputs, None: they are not made) -> seconds, from earlier runs
    quarantined: Callable[[str, Manifest], int] = lambda _kind, _manifest: 0
    # (stage kind, manifest) -> its items that were found to fail and were left out; reads the records of its shards
    takedowns: Sequence[Takedown] = ()  # in the order in which they took effect
    has_restart: Callable[[Restart], bool] = lambda _restart: False  # the checkpoint can be continued from


@dataclass(frozen=True, kw_only=True)
class IdentifiedStage:
    """A stage with its identity and its artifact in the store."""

    spec: StageSpec
    payload: dict[str, JSON]
    fingerprint: Fingerprint
    manifest: Manifest | None
    code: CodeDigest
    changed_files: tuple[str, ...] = field(default=())  # source files that changed since `manifest` was made


def deciding_inputs(spec: StageSpec) -> dict[str, tuple[str, ...]]:
    """The inputs of a stage that can change its result, by slot."""
    return {slot: names for slot, names in spec.inputs.items() if spec.kind.inputs[slot].decides}


def stage_payload(
    spec: StageSpec,
    inputs: Mapping[str, Sequence[Fingerprint]],
    sources: Mapping[str, str],
    takedowns: Sequence[str] = (),
) -> dict[str, JSON]:
    """The identity of a stage: everything that determines its output, and nothing else.

    `takedowns`: ids of those that left content out of this output although no input shows it.
    """
    payload: dict[str, JSON] = {
        "kind": spec.kind.name,
        "version": spec.kind.version,
        "config": _config_to_keep(spec),
        "inputs": {slot: list(fingerprints) for slot, fingerprints in inputs.items() if fingerprints},
    }
    if sources:
        payload["sources"] = dict(sources)
    if takedowns:
        payload["takedowns"] = list(takedowns)
    return payload


def _config_to_keep(spec: StageSpec) -> dict[str, JSON]:
    """Raises: RecipeError: it holds a secret of this process, which masking would make depend on the environment."""
    config = semantic_config(spec.config)
    if mask_secrets(config) != config:
        raise RecipeError(
            f"stages.{spec.id}.config: holds a secret that the environment of this process holds too; let the stage "
            "read it there, as a configuration is kept with what is made from it"
        )
    return config


def identify(
    specs: Iterable[StageSpec],
    view: PlanView,
    *,
    force: Collection[str] = (),
    code: CodePolicy = "warn",
    forbid_tainted_models: bool = True,
) -> dict[str, IdentifiedStage]:
    """The identity of each stage, after exactly those takedowns that it must respect.

    An untainted artifact that exists keeps the identity that it was made with, even if its inputs have newer ones,
    unless it is made again because of `force` or the policy for changed `code`. Without `forbid_tainted_models`,
    models that were trained on what was taken down may be used.
    """
    stages: dict[str, IdentifiedStage] = {}
    lineages: dict[str, _Lineage] = {}
    again = set(force)
    taint_index = TaintIndex(view.takedowns, find=view.find, forbid_tainted_models=forbid_tainted_models)
    for spec in specs:
        decisive = deciding_inputs(spec)
        if any(name in again for names in decisive.values() for name in names):
            again.add(spec.id)
        now = view.code(spec.kind)
        lineage = lineages[spec.id] = _Lineage()
        sources = view.sources(spec)
        for count in range(len(view.takedowns) + 1):
            inputs = {slot: [lineages[name].after(count) for name in names] for slot, names in decisive.items()}
            plain = _after_takedowns(spec, inputs, sources, view.takedowns[:count], taint_index)
            payload = _continued(plain, lineage, view)
            lineage.add(payload, plain)
            is_last = count == len(view.takedowns)
            if taint_index.takedowns_of(payload) or (spec.id in again and not is_last):
                continue
            manifest = view.find(ArtifactKey(spec.kind.name, lineage.fingerprint))
            changed = _changed_files(manifest, now)
            if manifest is not None and (is_last or code != "rerun" or not changed):
                lineage.manifest, lineage.changed_files = manifest, changed
                break
        stages[spec.id] = IdentifiedStage(
            spec=spec,
            payload=lineage.payloads[-1],
            fingerprint=lineage.fingerprint,
            manifest=lineage.manifest,
            code=now,
            changed_files=lineage.changed_files,
        )
    return stages


@dataclass(kw_only=True)
class _Lineage:
    """The identities of a stage after 0, 1, 2, ... takedowns, up to its current one."""

    payloads: list[dict[str, JSON]] = field(default_factory=list)
    plain: list[dict[str, JSON]] = field(default_factory=list)  # the same, without the checkpoint they begin with
    fingerprints: list[Fingerprint] = field(default_factory=list)
    manifest: Manifest | None = None
    changed_files: tuple[str, ...] = ()

    def add(self, payload: dict[str, JSON], plain: dict[str, JSON]) -> None:
        self.payloads.append(payload)
        self.plain.append(plain)
        self.fingerprints.append(fingerprint_of(payload))

    def after(self, count: int) -> Fingerprint:
        return self.fingerprints[min(count, len(self.fingerprints) - 1)]

    @property
    def fingerprint(self) -> Fingerprint:
        return self.fingerprints[-1]


def _changed_files(manifest: Manifest | None, now: CodeDigest) -> tuple[str, ...]:
    """Source files that changed since an artifact was made; empty if either side is unknown."""
    before = recorded_code(manifest).files if manifest else {}
    return code_changes(before, now.files) if before and now.files else ()


def _after_takedowns(
    spec: StageSpec,
    inputs: Mapping[str, Sequence[Fingerprint]],
    sources: Mapping[str, str],
    takedowns: Sequence[Takedown],
    taint_index: "TaintIndex",
) -> dict[str, JSON]:
    """The identity of a stage after some takedowns. Their ids are part of it only where its inputs do not show them."""
    listed: list[str] = []
    for takedown in takedowns:
        payload = stage_payload(spec, inputs, sources, listed)
        if takedown.id in taint_index.takedowns_of(payload):
            listed.append(takedown.id)
    return stage_payload(spec, inputs, sources, listed)


def _continued(plain: dict[str, JSON], lineage: _Lineage, view: PlanView) -> dict[str, JSON]:
    """The identity with the checkpoint to begin with: the newest clean one of the trainings that it takes the place of.

    `plain`: after one more takedown than `lineage`. One that changes nothing of it leaves the beginning as it is.
    """
    if lineage.plain and plain == lineage.plain[-1]:
        return lineage.payloads[-1]
    takedowns = view.takedowns[: len(lineage.plain)]
    known: set[Fingerprint] = set()
    for count, fingerprint in reversed(list(enumerate(lineage.fingerprints))):
        restart = None if fingerprint in known else clean_restart(takedowns[count:], fingerprint)
        known.add(fingerprint)
        if restart is None:
            continue
        payload = with_restart(plain, restart)
        key = ArtifactKey(str(plain["kind"]), fingerprint_of(payload))
        if view.has_restart(restart) or view.find(key) is not None:
            return payload
    return plain


class TaintIndex:
    """Which takedowns taint which identities. Ask for upstream stages first, as their taint passes to consumers."""

    def __init__(
        self,
        takedowns: Sequence[Takedown],
        *,
        find: Callable[[ArtifactKey], Manifest | None] = lambda _key: None,
        forbid_tainted_models: bool = True,
    ) -> None:
        self._takedowns, self._forbid_tainted_models = takedowns, forbid_tainted_models
        self._find = find
        self._known: dict[str, tuple[str, ...]] = {}

    def takedowns_of(self, payload: Mapping[str, JSON]) -> tuple[str, ...]:
        """Ids of the takedowns that taint an artifact of this identity."""
        fingerprint = fingerprint_of(payload)
        if fingerprint not in self._known:
            inputs, unknown = payload_inputs(payload), self._unknown_to(str(payload.get("kind")), fingerprint)
            from_inputs = {takedown_id for parent in inputs for takedown_id in self._known.get(parent, ())}
            self._known[fingerprint] = tuple(
                takedown.id
                for takedown in self._takedowns
                if takedown.id in unknown
                or takedown.is_tainted(
                    fingerprint,
                    inputs,
                    include_models=self._forbid_tainted_models,
                    has_tainted_input=takedown.id in from_inputs,
                )
            )
        return self._known[fingerprint]

    def _unknown_to(self, stage_kind: str, fingerprint: Fingerprint) -> list[str]:
        """Takedowns that a committed artifact was made without, and that concern its sources."""
        manifest = self._find(ArtifactKey(stage_kind, fingerprint)) if self._takedowns else None
        if manifest is None or (payload_inputs(manifest.payload) and not manifest.payload.get("sources")):
            return []  # what was made from others is judged by its inputs
        return unknown_takedowns(manifest, self._takedowns)


def recorded_code(manifest: Manifest) -> CodeDigest:
    """The code that made an artifact, from its provenance; empty if that has none."""
    recorded = manifest.provenance.get(PROVENANCE_CODE)
    files = recorded.get("files") if isinstance(recorded, dict) else None
    return CodeDigest(files={name: str(digest) for name, digest in files.items()} if isinstance(files, dict) else {})
