"""Random access to a curated dataset (`dataset@1`): ledgers hold each sample's span in its shard; one read gets it.

A sample is a small tar of its own inside its shard: the JSON member, then its images.
"""

import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.files import file_of, is_read_in_parts, read_span, read_span_ahead
from data_pipelines.datasets.samples import Sample, SampleError, parse_sample
from models.dualvitok.geometry import Size
from models.errors import DataError

DATASET_FORMAT = 1
HEADER_BYTES = 512  # of a tar member
JSON_READ_BYTES = 4096  # usually enough for the JSON member with its header
COLUMNS = ["sample_id", "verdict", "split", "task", "images", "offset", "span_bytes"]


def is_table(path: str) -> bool:
    """Whether a file of a dataset is a table or JSON; these answer questions about a dataset without its images."""
    return path.endswith((".parquet", ".json"))


def tar_name(shard: str) -> str:
    return f"shards/{shard}.tar"


class DatasetError(DataError):
    """A folder is not a curated dataset or is damaged; the message says where and why."""


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The spans of the kept samples of one shard, in order; arrays of equal length."""

    ids: npt.NDArray[np.uint8]  # [N, 32]
    tasks: list[str]
    offsets: npt.NDArray[np.int64]  # bytes from the start of the tar
    spans: npt.NDArray[np.int64]  # bytes of all members of the sample, headers included
    first_images: list[str]  # SHA-256 of each sample's first image; "": it has none

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample with the original bytes of its images."""

    sample: Sample
    members: dict[str, bytes]

    def image_bytes(self, slot: int) -> bytes:
        """Raises: SampleError if the shard lacks the image."""
        member = self.sample.images[slot].member
        if member not in self.members:
            raise SampleError(f"sample {self.sample.sample_id}: its shard lacks the member {member!r} of image {slot}")
        return self.members[member]


def original_files(stored: StoredSample) -> list[tuple[str, bytes]]:
    """The members of a sample as files, named so that those of several samples fit into one folder."""
    prefix = stored.sample.sample_id[:16]
    return [(f"{prefix}-{Path(name).name}", content) for name, content in sorted(stored.members.items())]


class CuratedDataset:
    """A folder of the kind `dataset@1`. No file stays open; ledgers are read shard by shard."""

    def __init__(self, folder: Path, *, thumbnails: Path | None = None) -> None:
        """`thumbnails`: folder of the view of `audit.thumbnails`; by default that in an older dataset.

        Raises: DatasetError if the folder is not a curated dataset.
        """
        self.folder, self.thumbnails = folder, thumbnails or folder / "thumbnails"
        path = folder / "dataset.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != DATASET_FORMAT:
                raise DatasetError(f"{path}: format {fields['format']}, expected {DATASET_FORMAT}; curate again")
            self.name = str(fields.get("name", folder.name))
            self.shards: tuple[str, ...] = tuple(str(name) for name in fields["shards"])
            self.anchors: tuple[Size, ...] = tuple((int(h), int(w)) for h, w in fields["anchors"])
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: no such file; expected the folder of a curated dataset") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path}: not a dataset.json ({type(error).__name__}: {error}); curate again") from error

    def tar_path(self, shard: str) -> Path:
        return file_of(self.folder, tar_name(shard))

    def ledger_path(self, shard: str) -> Path:
        return file_of(self.folder, f"ledger/{shard}.parquet")

    def rows(self, shard: str, *, split: str | None = None, tasks: Collection[str] | None = None) -> ShardRows:
        """The kept samples of a shard; `split` and `tasks` restrict them.

        Raises: DatasetError if the ledger is missing or damaged.
        """
        path = self.ledger_path(shard)
        try:
            table = pq.read_table(path, columns=COLUMNS, use_threads=False)
            chosen = pc.equal(table["verdict"], "keep")
            if split is not None:
                chosen = pc.and_(chosen, pc.equal(table["split"], split))
            if tasks is not None:
                chosen = pc.and_(chosen, pc.is_in(table["task"], pa.array(sorted(tasks), pa.string())))
            table = table.filter(chosen)
            ids = [bytes.fromhex(sample_id) for sample_id in table["sample_id"].to_pylist()]
            return ShardRows(
                ids=np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(len(ids), 32),
                tasks=table["task"].to_pylist(),
                offsets=table["offset"].cast(pa.int64()).to_numpy(),
                spans=table["span_bytes"].cast(pa.int64()).to_numpy(),
                first_images=[images[0] if images else "" for images in table["images"].to_pylist()],
            )
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error

    def read(self, shard: str, offset: int, span_bytes: int) -> StoredSample:
        """The sample at an offset. Raises: SampleError if there is no whole sample."""
        where = f"shard {shard} at byte {offset}"
        members = _members(self._pread(shard, span_bytes, offset), where)
        name = next(iter(members))
        stored = StoredSample(sample=parse_sample(members.pop(name), f"{where} ({name})"), members=members)
        if is_read_in_parts(self.folder, tar_name(shard), span_bytes):  # a whole file is verified when it is fetched
            _verify_images(stored, where)
        return stored

    def read_ahead(self, shard: str, offset: int, span_bytes: int) -> None:
        """Begin to fetch a sample that is needed soon; does nothing if it is on this machine."""
        read_span_ahead(self.folder, tar_name(shard), offset, span_bytes)

    def read_sample(self, shard: str, offset: int, span_bytes: int) -> Sample:
        """The sample without its images, which are not read."""
        where = f"shard {shard} at byte {offset}"
        start = self._pread(shard, min(span_bytes, JSON_READ_BYTES), offset)
        try:
            header = tarfile.TarInfo.frombuf(start[:HEADER_BYTES], "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise SampleError(f"{where}: no tar member begins there ({error}); the shard is damaged") from error
        end = HEADER_BYTES + header.size
        if end > span_bytes:
            raise SampleError(f"{where}: the member {header.name!r} is longer than its sample; the shard is damaged")
        if end > len(start):
            start = self._pread(shard, end, offset)
        return parse_sample(start[HEADER_BYTES:end], f"{where} ({header.name})")

    def _pread(self, shard: str, num_bytes: int, offset: int) -> bytes:
        try:
            data = read_span(self.folder, tar_name(shard), offset, num_bytes)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.folder / tar_name(shard)}: no such shard on node {socket.gethostname()}; the dataset is "
                "damaged, run `illume verify`, or this node does not see it"
            ) from error
        if len(data) != num_bytes:
            missing = num_bytes - len(data)
            raise SampleError(f"shard {shard} at byte {offset}: ends {missing} bytes early; the shard is damaged")
        return data

    def samples(self, shard: str, rows: ShardRows) -> Iterator[Sample]:
        """Samples of a shard in order, without images. Raises: SampleError, DatasetError."""
        for offset, span in zip(rows.offsets.tolist(), rows.spans.tolist(), strict=True):
            yield self.read_sample(shard, offset, span)

    def stored_samples(self, shard: str, rows: ShardRows) -> Iterator[StoredSample]:
        """Samples of a shard in order, with the bytes of their images. Raises: SampleError, DatasetError."""
        for offset, span in zip(rows.offsets.tolist(), rows.spans.tolist(), strict=True):
            yield self.read(shard, offset, span)


def _verify_images(stored: StoredSample, where: str) -> None:
    for slot, image in enumerate(stored.sample.images):
        found = hashlib.sha256(stored.image_bytes(slot)).hexdigest()
        if image.sha256 and found != image.sha256:
            raise SampleError(
                f"{where}: image {slot} of sample {stored.sample.sample_id} has SHA-256 {found}, expected "
                f"{image.sha256}; the shard is damaged"
            )


def _members(data: bytes, where: str) -> dict[str, bytes]:
    """The members in a part of a tar. Raises: SampleError if these are not whole members, JSON first."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                content = file.read() if file else b""
                if len(content) != member.size:
                    raise SampleError(f"{where}: member {member.name!r} is cut off; the shard is damaged")
                members[member.name] = content
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SampleError(f"{where}: not whole tar members ({error}); the shard is damaged") from error
    if not members or not next(iter(members)).endswith(".json"):
        raise SampleError(f"{where}: found members {sorted(members)}, expected a .json first; the shard is damaged")
    return members
