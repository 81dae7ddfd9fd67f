"""Small images for pages about a stored dataset, derived from the ingested records that it was made from."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path, PurePosixPath

from orchestrator.artifact import ArtifactKey, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.errors import CorruptArtifactError
from orchestrator.recipe.loading import Kinds

RECORDS, RECORDS_SLOT = "records@1", "records"
READ_FOLDERS = ("records", "index", "images")  # of an artifact of records
MAX_DOWNLOAD_BYTES = 256 << 20  # of images from a remote store


def stored_thumbnails(artifacts: ArtifactStore, kinds: Kinds, manifest: Manifest, folder: Path, target: Path) -> Path:
    """Write thumbnails of the dataset in `folder`, the artifact of `manifest`, to `target`; returns `target`.

    Images of records that are no longer in the store are missing; from a remote store only some are fetched.
    """
    from data_pipelines.audit.thumbnails import derive_thumbnails, shown_shards
    from data_pipelines.datasets.reader import CuratedDataset

    wanted = set(shown_shards(CuratedDataset(folder)))
    derive_thumbnails(folder, records_folders(artifacts, kinds, manifest, wanted), target)
    return target


def records_folders(artifacts: ArtifactStore, kinds: Kinds, manifest: Manifest, wanted: AbstractSet[str]) -> list[Path]:
    """Folders of the ingested records that a dataset was made from, as far as they are in the store.

    `wanted`: shards whose images are needed; of a remote store others, and those beyond `MAX_DOWNLOAD_BYTES`, are left.
    """
    room = MAX_DOWNLOAD_BYTES
    opened = []
    for records in _records(artifacts, kinds, manifest):
        sizes = {PurePosixPath(entry.path).stem: entry.bytes for entry in records.files if entry.path.endswith(".tar")}
        chosen = set()
        for shard in sorted(wanted & sizes.keys()):
            if artifacts.store.is_local or sizes[shard] <= room:
                chosen.add(shard)
                room -= sizes[shard]
        if not chosen:
            continue
        try:
            found = artifacts.open(records.key, only=partial(_is_read, chosen))
        except CorruptArtifactError:  # `illume verify` reports it
            continue
        opened.append(found.path)
    return opened


def _is_read(shards: set[str], path: str) -> bool:
    parts = PurePosixPath(path)
    return parts.parts[0] in READ_FOLDERS and parts.stem in shards


def _records(artifacts: ArtifactStore, kinds: Kinds, manifest: Manifest) -> Iterator[Manifest]:
    """The manifests of the records in the store that the dataset was made from."""
    makers = [kind.name for kind in kinds.values() if kind.output == RECORDS]
    for fingerprint in manifest.inputs.get(RECORDS_SLOT, ()):
        found = (artifacts.stored(ArtifactKey(maker, fingerprint)) for maker in makers)
        yield from (stored.manifest for stored in found if stored is not None)
