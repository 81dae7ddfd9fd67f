"""Pins: artifacts that are kept whatever their age, with one write-once record for each."""

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.store import Store, put_same, record_bytes

PINS = "pins"


def pin(store: Store, key: ArtifactKey) -> None:
    """Protect an artifact from `retract_unneeded`."""
    put_same(store, _pin_key(key), record_bytes({}))


def unpin(store: Store, key: ArtifactKey) -> None:
    store.delete(_pin_key(key))


def is_pinned(store: Store, key: ArtifactKey) -> bool:
    return store.get(_pin_key(key)) is not None


def pins(store: Store) -> list[ArtifactKey]:
    """The keys of all pinned artifacts, sorted.

    Raises: CorruptArtifactError: a file there is no pin; what it was to protect is not known, so nothing is deleted.
    """
    return sorted(_pinned(store, item.key) for item in store.list(PINS))


def _pinned(store: Store, key: str) -> ArtifactKey:
    folder, _, stage_kind_and_name = key.partition("/")
    stage_kind, _, name = stage_kind_and_name.partition("/")
    pinned = ArtifactKey(stage_kind, name.removesuffix(".json"))
    if folder != PINS or "/" in name or key != _pin_key(pinned):
        raise CorruptArtifactError(
            f"{store.url}: {key}: found a file that is no pin, expected {PINS}/<kind>/<fingerprint>.json; rename it to "
            "the artifact that it was to protect, or delete it"
        )
    return pinned


def _pin_key(key: ArtifactKey) -> str:
    return f"{PINS}/{key.stage_kind}/{key.fingerprint}.json"
