"""Verifies committed files against their digests."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.artifact import FileEntry
from orchestrator.backends.objects import Digest
from orchestrator.backends.parallel import parallel_map
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.store import Store

PARALLEL_FILES = 4


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Damage of an artifact or shard: which file, what was found, what was expected."""

    stage_kind: str
    fingerprint: str
    path: str  # of the damaged file; empty: the records are damaged
    found: str
    expected: str

    def __str__(self) -> str:
        what = f"file '{self.path}'" if self.path else "records"
        return f"{self.stage_kind} {self.fingerprint}: {what}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A file that differs from its entry."""

    path: str
    found: str
    expected: str


def differences(store: Store, data_key: str, files: Sequence[FileEntry], *, rehash: bool) -> list[Difference]:
    """Files that are missing or have another length; with `rehash` (reads every byte) also another digest."""
    sizes = {item.key: item.bytes for item in store.list(data_key)}

    def compare_file(file: FileEntry) -> Difference | None:
        key = f"{data_key}/{file.path}"
        size = sizes.get(key)
        if size is None and (unlisted := store.digest(key)):  # a listing may lag, as on NFS; the object decides
            size = unlisted.bytes
        if size is None or size != file.bytes:
            found = "no file" if size is None else f"{size:,} bytes"
            return Difference(path=file.path, found=found, expected=f"{file.bytes:,} bytes")
        return compare(file, store.digest(key)) if rehash else None

    threads = PARALLEL_FILES if rehash and len(files) > 1 else 1
    return [difference for difference in parallel_map(compare_file, files, threads=threads) if difference]


def compare(file: FileEntry, digest: Digest | None) -> Difference | None:
    if digest is None:
        return Difference(path=file.path, found="no file", expected=f"{file.bytes:,} bytes")
    if digest.bytes != file.bytes:
        return Difference(path=file.path, found=f"{digest.bytes:,} bytes", expected=f"{file.bytes:,} bytes")
    if digest.sha256 != file.sha256:
        return Difference(path=file.path, found=f"SHA-256 {digest.sha256}", expected=f"SHA-256 {file.sha256}")
    return None


def raise_for(found: Sequence[Difference], where: str) -> None:
    """Raises: CorruptArtifactError: there is a difference; the message names the first."""
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
        raise CorruptArtifactError(
            f"{where}: file '{first.path}': found {first.found}, expected {first.expected}{more}. "
            "Run `illume verify --heal`, then the recipe again"
        )
