"""Pins: artifacts that retention never touches, one write-once record each."""

from orchestrator.store.store import Store, put_same, record_bytes

PINS = "pins"

Place = tuple[str, str]  # stage kind, fingerprint


def pin(store: Store, stage_kind: str, fingerprint: str) -> None:
    """Keep an artifact whatever its age."""
    put_same(store, _pin_key(stage_kind, fingerprint), record_bytes({}))


def unpin(store: Store, stage_kind: str, fingerprint: str) -> None:
    store.delete(_pin_key(stage_kind, fingerprint))


def pins(store: Store) -> list[Place]:
    """(stage kind, fingerprint) of what is pinned, in order."""
    keys = sorted(item.key.removesuffix(".json").split("/") for item in store.list(PINS))
    return [(stage_kind, fingerprint) for _, stage_kind, fingerprint in keys]


def _pin_key(stage_kind: str, fingerprint: str) -> str:
    return f"{PINS}/{stage_kind}/{fingerprint}.json"
