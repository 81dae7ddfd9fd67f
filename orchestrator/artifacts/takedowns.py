"""What was taken down: content that must never come in again, and what had been made from it.

One write-once record for each takedown, `takedowns/<number>.json`, in the order in which they took effect. The rule
that keeps it correct: what was made from something tainted is tainted itself, unless the takedown cleared it by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.errors import CorruptArtifactError, RecipeError
from orchestrator.identity import to_json
from orchestrator.store.store import Store, read_record, record_bytes

TAKEDOWNS = "takedowns"
TAKEDOWN_FORMAT = 1
NUMBER_DIGITS = 6  # so that keys sort by number

Place = tuple[str, str]  # stage kind, fingerprint
Marks = Mapping[str, frozenset[str]]  # kind of mark -> marks; what they mean is known to whoever reads data


@dataclass(frozen=True, kw_only=True)
class TaintedArtifact:
    """An artifact that holds what is taken down, or was made from it."""

    stage_kind: str
    fingerprint: str
    kind: str
    why: str
    is_kept: bool  # a model: it stays in the store and is marked; everything else is deleted
    manifest_sha256: str
    bytes: int
    run_id: str  # that made it, and its stage and attempt
    stage_id: str
    attempt_id: str

    @property
    def place(self) -> Place:
        return self.stage_kind, self.fingerprint


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """One takedown as it took effect."""

    id: str
    note: str
    created: str  # ISO 8601, UTC
    content: Marks
    tainted: tuple[TaintedArtifact, ...] = ()
    cleared: frozenset[str] = frozenset()  # fingerprints of what reads tainted artifacts and provably saw none of it
    shards: tuple[Place, ...] = ()  # shards that hold it
    outside: tuple[str, ...] = field(default=())  # where it still lies outside the store, for people

    @cached_property
    def _tainted(self) -> Mapping[str, bool]:
        """Fingerprint -> whether it is a model."""
        return {one.fingerprint: one.is_kept for one in self.tainted}

    @cached_property
    def _shards(self) -> frozenset[str]:
        return frozenset(fingerprint for _, fingerprint in self.shards)

    def taints(
        self, fingerprint: str, inputs: Iterable[str], *, models: bool = True, handed_down: bool = False
    ) -> bool:
        """Whether an artifact of this identity, made from `inputs`, must not be used.

        `models`: those count too. `handed_down`: an input is tainted that the takedown does not name.
        """
        if fingerprint in self._tainted:
            return models or not self._tainted[fingerprint]
        if fingerprint in self.cleared:
            return False
        return handed_down or any(one in self._tainted and (models or not self._tainted[one]) for one in inputs)

    def holds_shard(self, fingerprint: str) -> bool:
        return fingerprint in self._shards


def read_takedowns(store: Store) -> tuple[Takedown, ...]:
    """All that took effect, oldest first. Raises: CorruptArtifactError: a record cannot be read."""
    keys = sorted(item.key for item in store.list(TAKEDOWNS))
    return tuple(takedown_from_json(read_record(store, key) or {}, f"{store.url}: {key}") for key in keys)


def put_takedown(store: Store, takedown: Takedown) -> None:
    """Let a takedown take effect.

    Raises:
        RecipeError: there is one with this id already.
    """
    while True:
        known = read_takedowns(store)
        if any(one.id == takedown.id for one in known):
            raise RecipeError(f"takedown {takedown.id!r} took effect already; give another one another --id")
        number = len(known) + 1
        if store.put_new(f"{TAKEDOWNS}/{number:0{NUMBER_DIGITS}d}.json", record_bytes(takedown_to_json(takedown))):
            return


def find_takedown(store: Store, takedown_id: str) -> Takedown:
    """Raises: RecipeError: none with this id took effect."""
    known = read_takedowns(store)
    for takedown in known:
        if takedown.id == takedown_id:
            return takedown
    ids = ", ".join(one.id for one in known) or "none took effect yet"
    raise RecipeError(f"found no takedown {takedown_id!r} in {store.url}; known: {ids}")


def all_marks(takedowns: Sequence[Takedown]) -> Marks:
    """What must not come in again, over all takedowns."""
    marks: dict[str, frozenset[str]] = {}
    for takedown in takedowns:
        for kind, found in takedown.content.items():
            marks[kind] = marks.get(kind, frozenset()) | found
    return marks


def takedown_to_json(takedown: Takedown) -> dict[str, JSON]:
    return {
        "format": TAKEDOWN_FORMAT,
        "id": takedown.id,
        "note": takedown.note,
        "created": takedown.created,
        "content": {kind: to_json(sorted(marks)) for kind, marks in takedown.content.items()},
        "tainted": [to_json(one) for one in takedown.tainted],
        "cleared": to_json(sorted(takedown.cleared)),
        "shards": to_json(sorted(takedown.shards)),
        "outside": to_json(takedown.outside),
    }


def takedown_from_json(data: Mapping[str, Any], where: str) -> Takedown:
    """Raises: CorruptArtifactError: it is no takedown, or of another format."""
    if data.get("format") != TAKEDOWN_FORMAT:
        raise CorruptArtifactError(f"{where}: found format {data.get('format')!r}, expected {TAKEDOWN_FORMAT}")
    try:
        return Takedown(
            id=data["id"],
            note=data["note"],
            created=data["created"],
            content={kind: frozenset(marks) for kind, marks in data["content"].items()},
            tainted=tuple(TaintedArtifact(**one) for one in data["tainted"]),
            cleared=frozenset(data["cleared"]),
            shards=tuple((stage_kind, fingerprint) for stage_kind, fingerprint in data["shards"]),
            outside=tuple(data["outside"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifactError(f"{where}: not the record of a takedown ({error!r})") from error
