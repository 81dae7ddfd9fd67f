"""The files beside its own that a shard reads: the only hand that gives them out also counts them.

Planning counts what reading would open, reading counts what it opened, both through `CountedFiles`; a shard whose two
counts differ is not committed. So what decides whether a shard is made again is what making it opens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipelines.datasets.records import Reject
from data_pipelines.ingest.config import FOLDER_FORMATS
from data_pipelines.ingest.files.image_sources import ChainedSource, FolderSource, ImageSource, open_images
from data_pipelines.ingest.units import IngestShard

NO_DIGESTS: Mapping[str, str] = {}


class ImageSources:
    """The places in which the files of shards are looked for: folders and tars of images, opened once."""

    def __init__(self, images: Sequence[Path], *, max_bytes: int, max_unpacked_bytes: int) -> None:
        """Raises: FileNotFoundError if a path does not exist."""
        self._max_bytes = max_bytes
        given = open_images(images, max_bytes=max_bytes, max_unpacked_bytes=max_unpacked_bytes) if images else None
        self._given = [given] if given else []

    def of(self, shard: IngestShard) -> ImageSource:
        """A folder of images is read as it is. Images that files of records name are looked for in the places given,
        then beside the file and in the folder below which it was found."""
        if shard.format in FOLDER_FORMATS:
            return FolderSource(Path(shard.file), max_bytes=self._max_bytes, as_listed=True)
        beside = dict.fromkeys(
            (Path(shard.file).parent, Path(shard.folder) if shard.folder else Path(shard.file).parent)
        )
        return ChainedSource([*self._given, *(FolderSource(path, max_bytes=self._max_bytes) for path in beside)])


class CountedFiles:
    """Reads files by name from an image source, and keeps what each name stood for: a digest, or why it has none."""

    def __init__(
        self, source: ImageSource | None, *, digest: Callable[[Path], str], archives: Mapping[str, str] = NO_DIGESTS
    ) -> None:
        """`digest`: of a whole file, for what is counted and not read. `archives`: digests of the tars by their paths;
        a member counts with the whole tar that it lies in."""
        self._source = source
        self._digest = digest
        self._archives = archives
        self._counts: dict[str, str] = {}
        self.opened: dict[str, Path] = {}  # by name, what exists

    def read(self, name: str) -> bytes | Reject:
        """The bytes of the file with a name."""
        located = self._locate(name)
        if isinstance(located, Reject) or self._source is None:
            return self._refuse(name, located)
        data = self._source.read(name)
        if isinstance(data, Reject):
            return self._refuse(name, data)
        archive = self._archives.get(str(located))
        self._counts[name] = archive if archive is not None else hashlib.sha256(data).hexdigest()
        return data

    def count(self, name: str) -> None:
        """Count the file with a name as `read` would, without its bytes."""
        located = self._locate(name)
        if isinstance(located, Reject):
            self._refuse(name, located)
            return
        archive = self._archives.get(str(located))
        self._counts[name] = archive if archive is not None else self._digest(located)

    def counted(self) -> str:
        """Digest of all names and of what they stood for."""
        named = hashlib.sha256()
        for name, count in sorted(self._counts.items()):
            # Names come from the data: some are not valid Unicode.
            named.update(f"{name}\n{count}\n".encode("utf-8", "surrogatepass"))
        return named.hexdigest()

    def names(self) -> list[str]:
        """All names that were asked for, found or not."""
        return sorted(self._counts)

    def _locate(self, name: str) -> Path | Reject:
        if self._source is None:
            return Reject(reason="missing_file", detail=f"{name[:200]!r}: no folder of images was given")
        located = self._source.locate(name)
        if isinstance(located, Path):
            self.opened[name] = located
        return located

    def _refuse(self, name: str, why: Path | Reject) -> Reject:
        refused = why if isinstance(why, Reject) else Reject(reason="missing_file", detail=f"no file {name[:200]!r}")
        self._counts[name] = f"{refused.reason}: {refused.detail}"
        return refused
