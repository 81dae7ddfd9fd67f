"""What each stage of a recipe is: its identity, and what the store has of it."""

import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.artifact import JSON, Fingerprint, Manifest
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.identity import fingerprint_of, semantic_config
from orchestrator.planning.code_digest import CodeDigest
from orchestrator.planning.reasons import CodePolicy, code_changes
from orchestrator.stage import StageKind, StageSpec

PROVENANCE_CODE = "code"  # key of a manifest's provenance: `{"digest": ..., "files": {...}}` of `CodeDigest`


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """What planning may look at. Every function answers from what exists and changes nothing."""

    find: Callable[[str, Fingerprint], Manifest | None]  # (stage kind, fingerprint) -> committed manifest
    previous: Callable[[str, str, str], Mapping[str, JSON] | None] = lambda _recipe, _stage, _kind: None
    # (recipe, stage id, stage kind) -> the identity of what it made last, also where that is gone
    sources: Callable[[StageSpec], Mapping[str, str]] = lambda _spec: {}  # name -> sha256 of files that it reads
    code: Callable[[StageKind[typing.Any]], CodeDigest] = lambda _kind: CodeDigest()
    estimate_s: Callable[[str, StageSpec, Fingerprint], float | None] = lambda _recipe, _spec, _fingerprint: None
    takedowns: Sequence[Takedown] = ()  # in the order in which they took effect


@dataclass(frozen=True, kw_only=True)
class IdentifiedStage:
    """A stage with its identity and what the store has of it."""

    spec: StageSpec
    payload: dict[str, JSON]
    fingerprint: Fingerprint
    manifest: Manifest | None
    code: CodeDigest
    changed_files: tuple[str, ...] = field(default=())  # of the code, since `manifest` was made


def stage_payload(
    spec: StageSpec,
    inputs: Mapping[str, Sequence[Fingerprint]],
    sources: Mapping[str, str],
    takedowns: Sequence[str] = (),
) -> dict[str, JSON]:
    """The identity of one use of a kind: what its output follows from, and nothing else.

    `takedowns`: those that left something out of this very output, which no input would show.
    """
    payload: dict[str, JSON] = {
        "kind": spec.kind.name,
        "version": spec.kind.version,
        "config": semantic_config(spec.config),
        "inputs": {slot: list(fingerprints) for slot, fingerprints in inputs.items() if fingerprints},
    }
    if sources:
        payload["sources"] = dict(sources)
    if takedowns:
        payload["takedowns"] = list(takedowns)
    return payload


def identify(
    specs: Iterable[StageSpec],
    view: PlanView,
    *,
    force: Collection[str] = (),
    code: CodePolicy = "warn",
    models_count: bool = True,
) -> dict[str, IdentifiedStage]:
    """The identity of each stage, after every takedown that it must follow and no other.

    What exists and no takedown taints keeps the identity that it was made with, though its inputs have newer ones;
    but not what is to be made again, in `force` or by the policy for changed `code`. Without `models_count`, models
    that saw what was taken down may be used.
    """
    stages: dict[str, IdentifiedStage] = {}
    lineages: dict[str, _Lineage] = {}
    again = set(force)
    taints = Taints(view.takedowns, models_count=models_count)
    for spec in specs:
        if any(name in again for names in spec.inputs.values() for name in names):
            again.add(spec.id)
        now = view.code(spec.kind)
        lineage = lineages[spec.id] = _Lineage()
        sources = view.sources(spec)
        for count in range(len(view.takedowns) + 1):
            inputs = {slot: [lineages[name].after(count) for name in names] for slot, names in spec.inputs.items()}
            payload = _after_takedowns(spec, inputs, sources, view.takedowns[:count], taints)
            lineage.add(payload)
            is_last = count == len(view.takedowns)
            if taints.of(payload) or (spec.id in again and not is_last):
                continue
            manifest = view.find(spec.kind.name, lineage.fingerprint)
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
    """The identities of a stage without takedowns, after the first, after two ... up to the one that it has."""

    payloads: list[dict[str, JSON]] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)
    manifest: Manifest | None = None
    changed_files: tuple[str, ...] = ()

    def add(self, payload: dict[str, JSON]) -> None:
        self.payloads.append(payload)
        self.fingerprints.append(fingerprint_of(payload))

    def after(self, count: int) -> Fingerprint:
        return self.fingerprints[min(count, len(self.fingerprints) - 1)]

    @property
    def fingerprint(self) -> Fingerprint:
        return self.fingerprints[-1]


def _changed_files(manifest: Manifest | None, now: CodeDigest) -> tuple[str, ...]:
    """Source files that differ from those that made an artifact; none where either side is not known."""
    before = recorded_code(manifest).files if manifest else {}
    return code_changes(before, now.files) if before and now.files else ()


def _after_takedowns(
    spec: StageSpec,
    inputs: Mapping[str, Sequence[Fingerprint]],
    sources: Mapping[str, str],
    takedowns: Sequence[Takedown],
    taints: "Taints",
) -> dict[str, JSON]:
    """The identity that a stage has after some takedowns: their ids are part of it only where its inputs hide them."""
    named: list[str] = []
    for takedown in takedowns:
        payload = stage_payload(spec, inputs, sources, named)
        if takedown.id in taints.of(payload):
            named.append(takedown.id)
    return stage_payload(spec, inputs, sources, named)


class Taints:
    """Which takedowns taint which identities; asked upstream first, because taint is handed down."""

    def __init__(self, takedowns: Sequence[Takedown], *, models_count: bool = True) -> None:
        self._takedowns, self._models_count = takedowns, models_count
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, payload: Mapping[str, JSON]) -> tuple[str, ...]:
        """Ids of the takedowns that an artifact of this identity is tainted by."""
        fingerprint = fingerprint_of(payload)
        if fingerprint not in self._known:
            slots = payload.get("inputs")
            lists = slots.values() if isinstance(slots, dict) else ()
            inputs = [str(one) for slot in lists if isinstance(slot, list) for one in slot]
            handed_down = {takedown_id for one in inputs for takedown_id in self._known.get(one, ())}
            self._known[fingerprint] = tuple(
                takedown.id
                for takedown in self._takedowns
                if takedown.taints(
                    fingerprint, inputs, models=self._models_count, handed_down=takedown.id in handed_down
                )
            )
        return self._known[fingerprint]


def recorded_code(manifest: Manifest) -> CodeDigest:
    """The code that made an artifact, as its provenance tells it; empty where it tells nothing."""
    recorded = manifest.provenance.get(PROVENANCE_CODE)
    files = recorded.get("files") if isinstance(recorded, dict) else None
    return CodeDigest(files={name: str(digest) for name, digest in files.items()} if isinstance(files, dict) else {})
