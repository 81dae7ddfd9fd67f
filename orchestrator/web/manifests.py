"""Manifests that pages have read: they never change, so each is read once."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from orchestrator.artifact import ArtifactKey, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.errors import OrchestratorError

MAX_MANIFESTS = 500
NUM_THREADS = 8  # an object store takes about 30 ms for each


@dataclass(kw_only=True)
class Manifests:
    """The manifests that were asked for last. Thread-safe."""

    _known: OrderedDict[ArtifactKey, Manifest] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, artifacts: ArtifactStore, keys: Iterable[ArtifactKey]) -> Mapping[ArtifactKey, Manifest]:
        """Those that are in the store; an artifact that was deleted, or cannot be read, is absent."""
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            found = {key: self._known[key] for key in wanted if key in self._known}
        missing = [key for key in wanted if key not in found]
        if missing:
            with ThreadPoolExecutor(NUM_THREADS) as threads:
                read = list(threads.map(lambda key: _read(artifacts, key), missing))
            found |= {key: manifest for key, manifest in zip(missing, read, strict=True) if manifest is not None}
        with self._lock:
            self._known.update({key: found[key] for key in missing if key in found})
            while len(self._known) > MAX_MANIFESTS:
                self._known.popitem(last=False)
        return found

    def forget(self, key: ArtifactKey) -> None:
        """Read it anew when it is asked for again: it may be gone."""
        with self._lock:
            self._known.pop(key, None)


def _read(artifacts: ArtifactStore, key: ArtifactKey) -> Manifest | None:
    try:
        return artifacts.find(key)
    except OrchestratorError:  # the store is away, which stands above every page; or `illume verify` reports it
        return None
