"""Old versions of objects that were deleted: a bucket that keeps versions lets them be read, and charges for them."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.backends.object_store import ObjectStore
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.backends.s3_api import OldVersion
from orchestrator.errors import StoreError
from orchestrator.store.store import Store

OLD_VERSIONS = (
    "the bucket keeps versions: what was deleted can be read, and takes its space, until a lifecycle rule for old "
    "versions removes it"
)


@dataclass(frozen=True, kw_only=True)
class FoundVersions:
    versions: tuple[OldVersion, ...] = ()
    unknown: str = ""  # why the bucket does not say; empty if it does

    @property
    def bytes(self) -> int:
        return sum(version.bytes for version in self.versions)


NO_VERSIONS = FoundVersions()


def keeps_versions(store: Store) -> bool:
    """Whether what is deleted stays as an old version; False also where the bucket does not say."""
    return isinstance(store, ObjectStore) and store.s3 is not None and store.s3.keeps_versions()


def find_old_versions(store: Store, folders: Iterable[str]) -> FoundVersions:
    """The old versions of all objects below these folders, whose objects were, or should be, deleted.

    Only S3 can be asked. One request where the bucket never kept versions, else one for each folder.
    """
    s3 = store.s3 if isinstance(store, ObjectStore) else None
    if s3 is None:
        return NO_VERSIONS
    try:
        if not s3.has_kept_versions():
            return NO_VERSIONS
        threads = request_threads(is_local=False)
        found = parallel_map(lambda folder: list(s3.old_versions(folder)), folders, threads=threads)
        return FoundVersions(versions=tuple(version for versions in found for version in versions))
    except StoreError as error:
        return FoundVersions(unknown=str(error))
