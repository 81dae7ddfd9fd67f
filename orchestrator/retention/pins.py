"""Pins: artifacts that are kept whatever their age, with one write-once record for each."""

from orchestrator.artifact import ArtifactKey
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
    """The keys of all pinned artifacts, sorted."""
    keys = sorted(item.key.removesuffix(".json").split("/") for item in store.list(PINS))
    return [ArtifactKey(stage_kind, fingerprint) for _, stage_kind, fingerprint in keys]


def _pin_key(key: ArtifactKey) -> str:
    return f"{PINS}/{key.stage_kind}/{key.fingerprint}.json"
