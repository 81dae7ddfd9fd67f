"""The index of the distinct images of some datasets, grouped by anchor, in memory-mapped columns (52 bytes an image).

Made shard by shard: `shard_images` is what a shard adds, `merge_images` puts these together. Images keep the order of
the datasets; of equal ones the first stays.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.tokens.token_shards import TokenShard
from data_pipelines.training_data.columns import open_columns, writing_columns
from data_pipelines.training_data.config import LoadingError
from data_pipelines.training_data.ids import first_of_equal, ids_of, images_held_out
from data_pipelines.training_data.sources import SourceFolders
from models.dualvitok.geometry import Size

FORMAT = 1
META_FILE, ROWS_FILE = "images.json", "rows.tmp"
LEDGER_COLUMNS = ["sample_id", "images", "offset", "span_bytes", "anchor_h", "anchor_w", "task", "split", "verdict"]
COLUMNS: dict[str, tuple[str, int]] = {  # name -> dtype, values per image; sorted by anchor
    "images": ("u1", 32),  # SHA-256
    "shards": ("<i4", 1),  # number among all shards of all datasets
    "offsets": ("<i8", 1),
    "spans": ("<i8", 1),
}
ROW = np.dtype([("image", "u1", 32), ("offset", "<i8"), ("span", "<i8"), ("anchor", "<i4", 2)])  # of a shard
_STORED = np.dtype([*((name, ROW[name]) for name in ROW.names or ()), ("shard", "<i4")])
CHUNK = 1 << 18  # rows

Rows = npt.NDArray[Any]  # of dtype ROW
Usable = Callable[[], Collection[str]]


@dataclass(frozen=True, kw_only=True)
class ImageSelection:
    """Which images of a dataset are trained on."""

    split: str
    tasks: tuple[str, ...] | None  # of their samples; None: all
    tokenized: bool = False  # only images with codes
    held_out_share: float = 0.0  # of the images, which are not trained on

    def __str__(self) -> str:
        return f"split {self.split!r}" + (f", tasks {', '.join(sorted(self.tasks))}" if self.tasks else "")


@dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """The images of one anchor; arrays of equal length, memory-mapped."""

    anchor: Size
    images: npt.NDArray[np.uint8]  # [N, 32]
    shards: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    groups: tuple[ImageGroup, ...]  # by anchor
    shards: tuple[tuple[int, str], ...]  # number of the dataset and name of each shard
    digest: str  # of the images in the order of the datasets


def shard_images(dataset: CuratedDataset, shard: str, selection: ImageSelection, usable: Usable | None = None) -> Rows:
    """The first images of the selected kept samples of a shard, in order, each with its anchor.

    `usable` gives the ids of the samples that may be shown, and is asked for a shard with any; None: all of them.
    Raises: DatasetError if the ledger cannot be read.
    """
    path = dataset.ledger_path(shard)
    try:
        table = pq.read_table(path, columns=LEDGER_COLUMNS, use_threads=False)
        chosen = pc.and_(pc.equal(table["verdict"], "keep"), pc.equal(table["split"], selection.split))
        if selection.tasks is not None:
            chosen = pc.and_(chosen, pc.is_in(table["task"], pa.array(sorted(selection.tasks), pa.string())))
        chosen = pc.and_(chosen, pc.greater(pc.list_value_length(table["images"]), 0))
        chosen = pc.and_(chosen, pc.greater(table["anchor_h"], 0))
        table = table.filter(chosen)
        if usable is not None and len(table):
            table = table.filter(pc.is_in(table["sample_id"], pa.array(sorted(usable()), pa.string())))
        table = table.combine_chunks()
        rows = np.zeros(len(table), dtype=ROW)
        images = pc.list_element(table["images"], 0).to_pylist()
        rows["image"] = ids_of(images)
        for name, column in (("offset", "offset"), ("span", "span_bytes")):
            rows[name] = table[column].to_numpy()
        rows["anchor"] = np.stack([table["anchor_h"].to_numpy(), table["anchor_w"].to_numpy()], axis=1)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
    return rows[~images_held_out(rows["image"], selection.held_out_share)] if selection.held_out_share else rows


def rows_to_table(rows: Rows) -> Any:
    """The rows of a shard as a table, to be stored; in one that names images, a takedown finds them."""
    columns = {
        "sha256": pa.array([image.tobytes().hex() for image in rows["image"]], pa.string()),
        "offset": pa.array(rows["offset"]),
        "span": pa.array(rows["span"]),
        "anchor_h": pa.array(rows["anchor"][:, 0]),
        "anchor_w": pa.array(rows["anchor"][:, 1]),
    }
    return pa.table(columns)


def table_to_rows(table: Any) -> Rows:
    """The inverse of `rows_to_table`."""
    rows = np.zeros(len(table), dtype=ROW)
    rows["image"] = ids_of(table["sha256"].to_pylist())
    rows["offset"], rows["span"] = table["offset"].to_numpy(), table["span"].to_numpy()
    rows["anchor"] = np.stack([table["anchor_h"].to_numpy(), table["anchor_w"].to_numpy()], axis=1)
    return rows


def make_image_index(out: Path, sources: Sequence[SourceFolders], selection: ImageSelection) -> ImageIndex:
    """Make the index in this process; see `merge_images`."""
    datasets = [CuratedDataset(source.dataset) for source in sources]
    rows = (
        shard_images(dataset, shard, selection, usable_ids(source, shard, selection))
        for source, dataset in zip(sources, datasets, strict=True)
        for shard in dataset.shards
    )
    return merge_images(out, datasets, selection, rows)


def usable_ids(source: SourceFolders, shard: str, selection: ImageSelection) -> Usable | None:
    """With `selection.tokenized` the samples whose first image has codes: one that failed to be tokenized has none."""

    def tokenized() -> set[str]:
        return {sample_id for sample_id, slot in TokenShard(source.token_shard(shard)).row_keys() if slot == 0}

    return tokenized if selection.tokenized else None


def merge_images(
    out: Path, datasets: Sequence[CuratedDataset], selection: ImageSelection, rows_of_shards: Iterable[Rows]
) -> ImageIndex:
    """Write the index into the empty folder `out` and open it. `rows_of_shards`: of each shard, in the datasets' order.

    Takes about 80 bytes of memory an image. Raises: DatasetError if there is no image with an anchor.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = [(number, shard) for number, dataset in enumerate(datasets) for shard in dataset.shards]
    num_rows = _store_rows(out / ROWS_FILE, rows_of_shards, num_shards=len(shards))
    if not num_rows:
        folders = ", ".join(str(dataset.folder) for dataset in datasets)
        raise DatasetError(f"{folders}: no kept image with an anchor ({selection}); look at `illume audit`")
    stored: Rows = np.memmap(out / ROWS_FILE, dtype=_STORED, mode="r", shape=(num_rows,))
    kept = np.flatnonzero(first_of_equal(stored["image"]))
    digest = hashlib.sha256()
    for at in _chunks(kept):
        digest.update(stored["image"][at].tobytes().hex().encode())
    sides = stored["anchor"][kept].astype(np.int64)
    anchors, group_of = np.unique(sides[:, 0] << 32 | sides[:, 1], return_inverse=True)
    with writing_columns(out, "", COLUMNS) as writer:
        for at in _chunks(kept[np.argsort(group_of, kind="stable")]):
            part = stored[at]
            writer.append(
                {"images": part["image"], "shards": part["shard"], "offsets": part["offset"], "spans": part["span"]}
            )
    counts = np.bincount(group_of).tolist()
    meta = {
        "format": FORMAT,
        "selection": asdict(selection),
        "digest": digest.hexdigest(),
        "anchors": [
            [int(anchor) >> 32, int(anchor) & 0xFFFFFFFF, count] for anchor, count in zip(anchors, counts, strict=True)
        ],
        "shards": [list(dataset.shards) for dataset in datasets],
    }
    del stored
    (out / ROWS_FILE).unlink()
    (out / META_FILE).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return open_image_index(out, datasets, selection)


def open_image_index(folder: Path, datasets: Sequence[CuratedDataset], selection: ImageSelection) -> ImageIndex:
    """The index in `folder`.

    Raises: LoadingError if it is missing or damaged, or was made for other images or other datasets.
    """
    path = folder / META_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        found_format, found, names = meta["format"], meta["selection"], meta["shards"]
        anchors = [(int(height), int(width), int(count)) for height, width, count in meta["anchors"]]
        columns = open_columns(folder, "", COLUMNS, sum(count for _, _, count in anchors))
        digest = str(meta["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadingError(
            f"{path}: not an index of images ({type(error).__name__}: {error}); make it again"
        ) from error
    if found_format != FORMAT or found != json.loads(json.dumps(asdict(selection))):
        raise LoadingError(f"{path}: made for other images ({found}), expected {asdict(selection)}; make it again")
    if names != [list(dataset.shards) for dataset in datasets]:
        raise LoadingError(f"{path}: made from other shards than the datasets have now; make it again")
    return ImageIndex(
        groups=tuple(_groups(anchors, columns)),
        shards=tuple((number, name) for number, shards in enumerate(names) for name in shards),
        digest=digest,
    )


def _groups(anchors: Sequence[tuple[int, int, int]], columns: dict[str, npt.NDArray[Any]]) -> Iterator[ImageGroup]:
    start = 0
    for height, width, count in anchors:
        part = {name: values[start : start + count] for name, values in columns.items()}
        yield ImageGroup(anchor=(height, width), **part)
        start += count


def _store_rows(path: Path, rows_of_shards: Iterable[Rows], *, num_shards: int) -> int:
    """Write the rows of all shards one after the other, with the number of the shard. Returns their number."""
    num_rows = 0
    with path.open("wb") as file:
        for number, rows in zip(range(num_shards), rows_of_shards, strict=True):
            stored = np.zeros(len(rows), dtype=_STORED)
            for name in ROW.names or ():
                stored[name] = rows[name]
            stored["shard"] = number
            file.write(stored.tobytes())
            num_rows += len(rows)
    return num_rows


def _chunks(values: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
