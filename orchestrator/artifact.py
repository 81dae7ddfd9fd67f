"""The types of a committed artifact: its key, its manifest, and a local folder with its files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NewType

from orchestrator.constraints import Key, Sha256, Size

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Fingerprint = NewType("Fingerprint", str)  # 64 hex digits, SHA-256 of a canonical identity payload
Chunks = Callable[[], Iterable[bytes | memoryview]]  # the bytes of a file or object, from the start at each call

MANIFEST_FORMAT = 1


@dataclass(frozen=True, order=True)
class ArtifactKey:
    """Identifies an artifact, a shard or the checkpoints of a stage in a store."""

    stage_kind: str  # name of the stage kind that makes it
    fingerprint: str  # 64 hex digits

    def __str__(self) -> str:
        return f"{self.stage_kind} {self.fingerprint}"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    path: Key  # relative to the artifact's data folder
    bytes: Size
    sha256: Sha256
    rows: int | None = None  # None: rows are not counted


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of one artifact: identity, files, metrics, provenance. Written once, before its commit record."""

    kind: str  # artifact kind, e.g. "dataset@1"
    stage_kind: str  # name of the stage kind that made it
    fingerprint: Fingerprint
    payload: dict[str, JSON]  # the identity whose canonical JSON hashes to `fingerprint`
    files: tuple[FileEntry, ...]
    metrics: dict[str, float]  # what the stage's `run` returned
    shards: tuple[str, ...] = ()  # fingerprints of the shards that make it up, in order
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)  # slot -> fingerprints of parents
    provenance: dict[str, JSON] = field(default_factory=dict)  # run, attempt, host, versions: never identity
    format: int = MANIFEST_FORMAT

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.stage_kind, str(self.fingerprint))


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A committed artifact. `ArtifactStore.open` gives one whose files can be read below `path`."""

    path: Path  # of a remote store: where its local copy is once it has been opened
    manifest: Manifest
    manifest_sha256: str

    @property
    def fingerprint(self) -> Fingerprint:
        return self.manifest.fingerprint

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.manifest.metrics
