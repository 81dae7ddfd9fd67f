"""Takedowns: records of content that must never be ingested again, and of what had been made from it.

One write-once record for each takedown, `takedowns/<number>.json`, in the order in which they took effect.
Rule: what was made from a tainted artifact is tainted itself, unless the takedown lists it as cleared.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from orchestrator.artifact import JSON, ArtifactKey, Manifest
from orchestrator.documents.typed_json import record_from_json
from orchestrator.errors import RecipeError, TakenDownError
from orchestrator.identity import to_json
from orchestrator.store.store import Store, read_record, record_bytes
from orchestrator.times import short_time

TAKEDOWNS = "takedowns"
TAKEDOWN_FORMAT = 4
PROVENANCE_TAKEDOWNS = "takedowns"  # key of a manifest's provenance: ids of those that its attempt knew and respected
NUMBER_DIGITS = 6  # so that keys sort by number

Marks = Mapping[str, frozenset[str]]  # kind of mark -> marks; only the code that reads data knows what they mean


@dataclass(frozen=True, kw_only=True)
class TaintedArtifact:
    """An artifact that contains content that is taken down, or was made from such an artifact."""

    stage_kind: str
    fingerprint: str
    kind: str
    why: str
    is_kept: bool  # a model: it is marked and stays in the store; other artifacts are deleted
    manifest_sha256: str
    bytes: int
    run_id: str  # of the run that made it, with its stage and attempt
    stage_id: str
    attempt_id: str

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.stage_kind, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Restart:
    """The newest checkpoint of a training that saw nothing of what was taken down, directly or through a model."""

    stage_kind: str
    fingerprint: str  # of the training
    step: int
    manifest_sha256: str  # of the checkpoint

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.stage_kind, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """One takedown that took effect."""

    id: str
    note: str
    created: str  # ISO 8601, UTC
    content: Marks
    tainted: tuple[TaintedArtifact, ...] = ()
    cleared: frozenset[str] = frozenset()  # fingerprints: inputs are tainted, but provably contain none of it
    shards: tuple[ArtifactKey, ...] = ()  # shards that contain it
    outside: tuple[str, ...] = field(default=())  # where it still is outside the store, for people
    examined: frozenset[str] | None = None  # fingerprints: searched, and not tainted; None: not recorded (format 1)
    by: str = ""  # who applied it; empty: not recorded (formats 1 and 2)
    due: str = ""  # ISO 8601, the day by which all of it must be done; empty: none is recorded
    restarts: tuple[Restart, ...] = ()  # of the trainings that are made again: where the new ones begin

    @property
    def signature(self) -> str:
        """For messages: `taken down by request-17 on 2026-05-04T10:30:00Z (alice@host7)`."""
        who = f" ({self.by})" if self.by else ""
        return f"taken down by {self.id} on {short_time(datetime.fromisoformat(self.created).timestamp())}{who}"

    @cached_property
    def _tainted(self) -> Mapping[str, bool]:
        """Fingerprint -> whether it is a model."""
        return {artifact.fingerprint: artifact.is_kept for artifact in self.tainted}

    @cached_property
    def _shards(self) -> frozenset[str]:
        return frozenset(key.fingerprint for key in self.shards)

    def is_tainted(
        self, fingerprint: str, inputs: Iterable[str], *, include_models: bool = True, has_tainted_input: bool = False
    ) -> bool:
        """True if an artifact of this identity, made from `inputs`, must not be used.

        `include_models`: tainted models count too. `has_tainted_input`: an input is tainted that the takedown does not
        list.
        """
        if fingerprint in self._tainted:
            return include_models or not self._tainted[fingerprint]
        if fingerprint in self.cleared:
            return False
        return has_tainted_input or any(
            parent in self._tainted and (include_models or not self._tainted[parent]) for parent in inputs
        )

    def removes(self, fingerprint: str) -> bool:
        """Whether it deletes this artifact, and does not only mark it."""
        return self._tainted.get(fingerprint) is False

    def restart_of(self, fingerprint: str) -> Restart | None:
        """Where a training that takes the place of this one begins."""
        return next((restart for restart in self.restarts if restart.fingerprint == fingerprint), None)

    def shows_clean(self, fingerprint: str) -> bool:
        """Whether it examined the artifact and found none of what it removes."""
        return fingerprint in self.cleared or fingerprint in (self.examined or ())

    def holds_shard(self, fingerprint: str) -> bool:
        return fingerprint in self._shards

    def concerns(self, payload: Mapping[str, JSON], fingerprint: str) -> bool:
        """Whether an artifact that was made without knowing this takedown may contain what it removes.

        True for what it lists, what was made from that, and what was read from sources and not searched by it.
        """
        inputs = payload_inputs(payload)
        if self.is_tainted(fingerprint, inputs):
            return True
        if self.shows_clean(fingerprint):
            return False
        return bool(self.content) and (not inputs or bool(payload.get("sources")))


@dataclass(frozen=True, kw_only=True)
class _TakedownRecord:
    """The persisted form of a `Takedown`."""

    format: Literal[1, 2, 3, 4]
    id: str
    note: str
    created: str
    content: dict[str, frozenset[str]]
    tainted: tuple[TaintedArtifact, ...]
    cleared: frozenset[str]
    shards: tuple[tuple[str, str], ...]  # kind and fingerprint
    outside: tuple[str, ...]
    examined: frozenset[str] | None = None
    by: str = ""
    due: str = ""
    restarts: tuple[Restart, ...] = ()


def newest_takedown_s(store: Store) -> float:
    """When the newest takedown was planned, in seconds of the epoch; 0 if there is none."""
    times = [datetime.fromisoformat(takedown.created).timestamp() for takedown in read_takedowns(store)]
    return max(times, default=0.0)


def read_takedowns(store: Store) -> tuple[Takedown, ...]:
    """All takedowns that took effect, oldest first. Raises: as `takedown_from_json`."""
    keys = sorted(item.key for item in store.list(TAKEDOWNS))
    return tuple(takedown_from_json(read_record(store, key) or {}, f"{store.url}: {key}") for key in keys)


def put_takedown(store: Store, takedown: Takedown) -> None:
    """Record a takedown, which makes it take effect.

    Raises:
        RecipeError: a takedown with this id exists already.
    """
    while True:
        newest = max((_number_of(item.key) for item in store.list(TAKEDOWNS)), default=0)
        if any(recorded.id == takedown.id for recorded in read_takedowns(store)):
            raise RecipeError(f"takedown {takedown.id!r} took effect already; choose another --id for a new takedown")
        number = newest + 1  # a number between may be missing, as in a copy of a store
        if store.put_new(f"{TAKEDOWNS}/{number:0{NUMBER_DIGITS}d}.json", record_bytes(takedown_to_json(takedown))):
            return


def _number_of(key: str) -> int:
    name = key.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isascii() and name.isdigit() else 0


def payload_inputs(payload: Mapping[str, JSON]) -> list[str]:
    """The fingerprints of the inputs in an identity."""
    slots = payload.get("inputs")
    lists = slots.values() if isinstance(slots, dict) else ()
    return [str(parent) for slot in lists if isinstance(slot, list) for parent in slot]


def unknown_takedowns(manifest: Manifest, takedowns: Sequence[Takedown]) -> list[str]:
    """Ids of the takedowns that concern an artifact and that its attempt did not know, e.g. as it was cut off.

    Manifests and takedowns of older versions do not record what is needed; between two of them nothing is concluded.
    """
    recorded = manifest.provenance.get(PROVENANCE_TAKEDOWNS)
    known = set(recorded) if isinstance(recorded, list) else set()
    return [
        takedown.id
        for takedown in takedowns
        if takedown.id not in known
        and (isinstance(recorded, list) or takedown.examined is not None)
        and takedown.concerns(manifest.payload, manifest.fingerprint)
    ]


def check_no_new_takedown(store: Store, known: Collection[str], payload: Mapping[str, JSON], fingerprint: str) -> None:
    """Raises: TakenDownError: a takedown took effect that is not in `known` and concerns this artifact."""
    for takedown in read_takedowns(store):
        if takedown.id not in known and takedown.concerns(payload, fingerprint):
            raise TakenDownError(
                f"{store.url}: takedown {takedown.id!r} took effect while this was made, which may contain what it "
                "removes; it is not committed. `illume run` makes a plan without that content"
            )


def find_takedown(store: Store, takedown_id: str) -> Takedown:
    """The takedown with this id. Raises: RecipeError: none with this id took effect."""
    known = read_takedowns(store)
    for takedown in known:
        if takedown.id == takedown_id:
            return takedown
    ids = ", ".join(takedown.id for takedown in known) or "none took effect yet"
    raise RecipeError(f"found no takedown {takedown_id!r} in {store.url}; known: {ids}")


def taken_down_text(takedowns: Sequence[Takedown], fingerprint: str) -> str:
    """What a takedown did with an artifact, for messages: `taken down by ...`; empty if none names it."""
    for takedown in reversed(takedowns):
        for artifact in takedown.tainted:
            if artifact.fingerprint == fingerprint:
                kept = f"; the model is kept and marked: {artifact.why}" if artifact.is_kept else f": {artifact.why}"
                return takedown.signature + kept
    return ""


def all_marks(takedowns: Sequence[Takedown]) -> Marks:
    """The marks of all takedowns: content that must not be ingested again."""
    marks: dict[str, frozenset[str]] = {}
    for takedown in takedowns:
        for kind, found in takedown.content.items():
            marks[kind] = marks.get(kind, frozenset()) | found
    return marks


def takedown_to_json(takedown: Takedown) -> dict[str, JSON]:
    later: dict[str, JSON] = {} if takedown.examined is None else {"examined": to_json(sorted(takedown.examined))}
    number = 2 if later else 1
    if takedown.by or takedown.due:
        number, later = 3, {**later, "by": takedown.by, "due": takedown.due}
    if takedown.restarts:
        number, later = TAKEDOWN_FORMAT, {**later, "restarts": to_json(takedown.restarts)}
    return {
        "format": number,
        "id": takedown.id,
        "note": takedown.note,
        "created": takedown.created,
        "content": {kind: to_json(sorted(marks)) for kind, marks in takedown.content.items()},
        "tainted": [to_json(artifact) for artifact in takedown.tainted],
        "cleared": to_json(sorted(takedown.cleared)),
        "shards": [[key.stage_kind, key.fingerprint] for key in sorted(takedown.shards)],
        "outside": to_json(takedown.outside),
        **later,
    }


def takedown_from_json(data: Mapping[str, Any], where: str) -> Takedown:
    """The takedown of a record.

    Raises:
        NewerFormatError: its format is newer than this program.
        CorruptArtifactError: not a takedown, or with a key that this program does not know.
    """
    record = record_from_json(_TakedownRecord, data, where, unknown="forbid")
    return Takedown(
        id=record.id,
        note=record.note,
        created=record.created,
        content=record.content,
        tainted=record.tainted,
        cleared=record.cleared,
        shards=tuple(ArtifactKey(stage_kind, fingerprint) for stage_kind, fingerprint in record.shards),
        outside=record.outside,
        examined=record.examined,
        by=record.by,
        due=record.due,
        restarts=record.restarts,
    )
