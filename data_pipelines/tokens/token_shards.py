"""Token shards (`tokens@1`): the codes of every tokenized image as fixed-width integers in plain Parquet.

A pixel code takes 17 bits: 16 in `pixel`, the top one packed into `pixel_high`. A shard carries the digest of the
tokenizer that made it and the sizes of its codebooks; codes outside them are refused on writing and on reading.
Legend: N rows, Y X rows and columns of a code grid.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.images.model_input import grids
from models.dualvitok.geometry import Size
from models.errors import DataError
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE, VisionVocabulary

Semantic = npt.NDArray[np.uint16]
Pixel = npt.NDArray[np.int32]

TOKENS_FORMAT = 1
METADATA_KEY = b"illume.tokens"
GROUP_ROWS = 128  # a random read loads one row group: 100 KB at 256x256; the footer costs 12 bytes per row
MAX_SEMANTIC_CODES = 2**16
MAX_PIXEL_CODES = 2**17
REMEDY = "the shard is damaged or in a foreign format; tokenize it again"

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("slot", pa.int16(), nullable=False),
        pa.field("anchor_h", pa.int16(), nullable=False),
        pa.field("anchor_w", pa.int16(), nullable=False),
        pa.field("semantic", pa.binary(), nullable=False),
        pa.field("pixel", pa.binary(), nullable=False),
        pa.field("pixel_high", pa.binary(), nullable=False),
    ]
)


class TokensError(DataError):
    """Codes or a token shard cannot be used; the message says where and why."""


@dataclass(frozen=True, kw_only=True)
class TokenizerIdentity:
    """The tokenizer that made the codes of a shard, and the range of its codes."""

    sha256: str  # of the tokenizer's model.safetensors
    semantic_codes: int
    pixel_codes: int
    pixel_factor: int  # image pixels per side of a pixel code
    format: int = TOKENS_FORMAT

    def __post_init__(self) -> None:
        if not 0 < self.semantic_codes <= MAX_SEMANTIC_CODES or not 0 < self.pixel_codes <= MAX_PIXEL_CODES:
            raise TokensError(
                f"codebooks of {self.semantic_codes} semantic and {self.pixel_codes} pixel codes; "
                f"a token shard holds at most {MAX_SEMANTIC_CODES} and {MAX_PIXEL_CODES}"
            )

    def grids(self, anchor: Size, where: str) -> tuple[Size, Size]:
        """The semantic and pixel grid of an anchor. Raises: TokensError if the anchor has none."""
        try:
            return grids(anchor, self.pixel_factor)
        except ValueError as error:
            raise TokensError(f"{where}: anchor {anchor[0]}x{anchor[1]} (HxW): {error}") from error


@dataclass(frozen=True, kw_only=True)
class ImageCodes:
    """The codes of one image of a sample."""

    sample_id: str
    slot: int  # index among the images of the sample
    anchor: Size
    semantic_YX: npt.NDArray[np.integer]
    pixel_YX: npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class CodeBlock:
    """The codes of several images of one anchor."""

    anchor: Size
    rows: npt.NDArray[np.int64]  # N: their rows in the shard
    semantic_NYX: Semantic
    pixel_NYX: Pixel


def block_ids(block: CodeBlock, vocabulary: VisionVocabulary) -> npt.NDArray[np.int64]:
    """`VisionVocabulary.block_ids` of every image of a block, [N, T]; computed at once, as all have the same layout."""
    layout = vocabulary.feature_block_ids(block.semantic_NYX.shape[1:], block.pixel_NYX.shape[1:])
    ids_NT = np.tile(layout, (len(block.rows), 1))
    ids_NT[:, layout == SEMANTIC_FEATURE] = vocabulary.semantic_ids(block.semantic_NYX).reshape(len(ids_NT), -1)
    ids_NT[:, layout == PIXEL_FEATURE] = vocabulary.pixel_ids(block.pixel_NYX).reshape(len(ids_NT), -1)
    return ids_NT


class TokenShardWriter:
    """Writes one shard, row group by row group; the same rows give the same bytes."""

    def __init__(self, path: Path, tokenizer: TokenizerIdentity) -> None:
        self._path, self._tokenizer = path, tokenizer
        self._rows: list[dict[str, Any]] = []
        self.num_rows = 0
        self._writer = pq.ParquetWriter(
            path,
            SCHEMA,
            compression="none",
            use_dictionary=["slot", "anchor_h", "anchor_w"],
            write_statistics=["sample_id"],
            write_page_checksum=True,
            store_schema=False,
        )
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(asdict(tokenizer), sort_keys=True).encode()})

    def write(self, codes: ImageCodes) -> None:
        """Append the codes of an image.

        Raises: TokensError for codes of a wrong shape or outside the codebooks.
        """
        where = f"{self._path.name}: sample {codes.sample_id}, image {codes.slot}"
        grids = self._tokenizer.grids(codes.anchor, where)
        semantic = _checked(codes.semantic_YX, grids[0], self._tokenizer.semantic_codes, f"{where}: semantic codes")
        pixel = _checked(codes.pixel_YX, grids[1], self._tokenizer.pixel_codes, f"{where}: pixel codes")
        high = np.packbits(pixel >> 16).tobytes() if self._tokenizer.pixel_codes > 2**16 else b""
        self._rows.append(
            {
                "sample_id": codes.sample_id,
                "slot": codes.slot,
                "anchor_h": codes.anchor[0],
                "anchor_w": codes.anchor[1],
                "semantic": semantic.astype("<u2").tobytes(),
                "pixel": (pixel & 0xFFFF).astype("<u2").tobytes(),
                "pixel_high": high,
            }
        )
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), row_group_size=GROUP_ROWS)
            self.num_rows += len(self._rows)
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def _checked(codes: npt.NDArray[np.integer], grid: Size, num_codes: int, where: str) -> npt.NDArray[np.int64]:
    array = np.asarray(codes)
    if array.shape != grid or array.dtype.kind not in "iu":
        raise TokensError(f"{where}: shape {array.shape} of {array.dtype}, expected integers of shape {grid}")
    if int(array.min()) < 0 or int(array.max()) >= num_codes:
        raise TokensError(f"{where}: from {array.min()} to {array.max()}, expected 0 to {num_codes - 1}")
    return array.astype(np.int64)


class TokenShard:
    """A token shard opened for reading; reads only the row groups that are needed.

    Raises: TokensError if the file is damaged, of another format, or holds codes that its tokenizer cannot make.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise TokensError(f"{path}: no such token shard; tokenize this shard of the dataset")
        try:
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            metadata, schema = self._file.metadata, self._file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TokensError(
                f"{path}: not a Parquet file that can be read ({error}); tokenize this shard again"
            ) from error
        self.tokenizer = _identity(path, (metadata.metadata or {}).get(METADATA_KEY))
        if schema.remove_metadata() != SCHEMA:
            found = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise TokensError(f"{path}: columns are {found}; expected those of tokens@1; {REMEDY}")
        self.num_rows: int = metadata.num_rows
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_ends = np.cumsum(sizes, dtype=np.int64)
        self._index: dict[tuple[str, int], int] | None = None

    def row_keys(self) -> list[tuple[str, int]]:
        """(sample id, slot) of every row, in order."""
        table = self._read(None, ["sample_id", "slot"])
        return list(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))

    def find(self, sample_ids: pa.Array) -> Iterator[tuple[int, str, int]]:
        """(row, sample id, slot) of every row that holds an image of one of the samples, in order."""
        table = self._read(None, ["sample_id"])
        rows = pc.indices_nonzero(pc.is_in(table["sample_id"], sample_ids))
        if len(rows):
            found = self._read(None, ["sample_id", "slot"]).take(rows)
            columns = (rows.to_pylist(), *(found[name].to_pylist() for name in ("sample_id", "slot")))
            yield from zip(*columns, strict=True)

    def row_of(self, sample_id: str, slot: int) -> int | None:
        if self._index is None:
            self._index = {key: row for row, key in enumerate(self.row_keys())}
        return self._index.get((sample_id, slot))

    def codes(self, sample_id: str, slot: int) -> tuple[Semantic, Pixel]:
        """Semantic codes [Y, X] and pixel codes [Y, X] of one image. Raises: TokensError if it is not in the shard."""
        row = self.row_of(sample_id, slot)
        if row is None:
            raise TokensError(f"{self.path}: no codes of image {slot} of sample {sample_id}")
        return self.read_rows([row])[0]

    def read_rows(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[tuple[Semantic, Pixel]]:
        """The codes of the rows, in the given order; reads each row group once."""
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.num_rows):
            raise TokensError(f"{self.path}: no row {wanted.min()} or {wanted.max()}; it has {self.num_rows} rows")
        found: dict[int, tuple[Semantic, Pixel]] = {}
        needed = set(wanted.tolist())
        for group in np.unique(np.searchsorted(self._group_ends, wanted, side="right")).tolist():
            for block in self.read_group(group):
                for index, row in enumerate(block.rows.tolist()):
                    if row in needed:
                        found[row] = (block.semantic_NYX[index], block.pixel_NYX[index])
        return [found[row] for row in wanted.tolist()]

    def group_of(self, row: int) -> int:
        return int(np.searchsorted(self._group_ends, row, side="right"))

    @property
    def num_groups(self) -> int:
        return len(self._group_ends)

    def read_group(self, group: int) -> list[CodeBlock]:
        """All rows of a row group, one block per anchor."""
        table = self._read(group, [name for name in SCHEMA.names if name not in ("sample_id", "slot")])
        heights, widths = (table.column(name).to_numpy().astype(np.int64) for name in ("anchor_h", "anchor_w"))
        first_row = int(self._group_ends[group] - len(table))
        anchors = heights * 2**16 + widths
        blocks = []
        for anchor in np.unique(anchors).tolist():
            chosen = np.flatnonzero(anchors == anchor)
            blocks.append(self._block(table, (int(heights[chosen[0]]), int(widths[chosen[0]])), chosen, first_row))
        return blocks

    def blocks(self) -> Iterator[CodeBlock]:
        """The whole shard, row group by row group."""
        for group in range(self.num_groups):
            yield from self.read_group(group)

    def _block(self, table: pa.Table, anchor: Size, chosen: npt.NDArray[np.int64], first_row: int) -> CodeBlock:
        where = f"{self.path}: rows from {first_row}"
        semantic_grid, pixel_grid = self.tokenizer.grids(anchor, where)
        num_semantic, num_pixel = int(np.prod(semantic_grid)), int(np.prod(pixel_grid))
        num_high = -(-num_pixel // 8) if self.tokenizer.pixel_codes > 2**16 else 0
        semantic = _column(table, "semantic", chosen, 2 * num_semantic, where).view("<u2")
        pixel = _column(table, "pixel", chosen, 2 * num_pixel, where).view("<u2").astype(np.int32)
        if num_high:
            high = _column(table, "pixel_high", chosen, num_high, where)
            pixel |= np.unpackbits(high, axis=1, count=num_pixel).astype(np.int32) << 16
        for name, codes, limit in (
            ("semantic", semantic, self.tokenizer.semantic_codes),
            ("pixel", pixel, self.tokenizer.pixel_codes),
        ):
            if codes.size and int(codes.max()) >= limit:
                raise TokensError(
                    f"{where}: {name} code {int(codes.max())} in a codebook of {limit}; the shard is damaged"
                )
        return CodeBlock(
            anchor=anchor,
            rows=chosen + first_row,
            semantic_NYX=semantic.reshape(-1, *semantic_grid),
            pixel_NYX=pixel.reshape(-1, *pixel_grid),
        )

    def _read(self, group: int | None, columns: list[str]) -> pa.Table:
        try:
            if group is None:
                table = self._file.read(columns=columns, use_threads=False)
            else:
                table = self._file.read_row_group(group, columns=columns, use_threads=False)
            return table.combine_chunks()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TokensError(f"{self.path}: damaged ({error}); {REMEDY}") from error


def require_one_tokenizer(shards: Iterable[TokenShard]) -> TokenizerIdentity | None:
    """The tokenizer that made all of the shards; None without shards.

    Raises: TokensError if there are several: codes of different tokenizers mean different things.
    """
    first: TokenShard | None = None
    for shard in shards:
        if first is not None and shard.tokenizer != first.tokenizer:
            raise TokensError(
                f"{shard.path} was made by tokenizer {_short(shard.tokenizer)}, but {first.path} by "
                f"{_short(first.tokenizer)}; tokenize all datasets of one training with the same tokenizer"
            )
        first = first or shard
    return first.tokenizer if first else None


def _short(tokenizer: TokenizerIdentity) -> str:
    return f"{tokenizer.sha256[:12]} ({tokenizer.semantic_codes}+{tokenizer.pixel_codes} codes)"


def _identity(path: Path, metadata: bytes | None) -> TokenizerIdentity:
    try:
        fields = json.loads(metadata or b"")
        if fields["format"] != TOKENS_FORMAT:
            raise TokensError(f"{path}: token format {fields['format']}, expected {TOKENS_FORMAT}; {REMEDY}")
        numbers = {name: fields[name] for name in ("semantic_codes", "pixel_codes", "pixel_factor")}
        if not isinstance(fields["sha256"], str) or not all(type(number) is int for number in numbers.values()):
            raise TypeError(f"found {fields}")
        return TokenizerIdentity(sha256=fields["sha256"], **numbers)
    except TokensError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise TokensError(
            f"{path}: does not say which tokenizer made it ({type(error).__name__}: {error}); {REMEDY}"
        ) from error


def _column(table: pa.Table, name: str, chosen: npt.NDArray[np.int64], width: int, where: str) -> npt.NDArray[np.uint8]:
    """The bytes of some rows of a binary column, [N, width]. Raises: TokensError if a value has another length."""
    array = table.column(name)
    array = array.chunk(0) if array.num_chunks else pa.array([], pa.binary())
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32, count=len(array) + 1, offset=4 * array.offset)
    lengths = np.diff(offsets)[chosen]
    if (lengths != width).any():
        row = int(chosen[np.flatnonzero(lengths != width)[0]])
        raise TokensError(
            f"{where}: {int(offsets[row + 1] - offsets[row])} bytes of {name} codes in row +{row}, expected {width} "
            f"for its anchor; {REMEDY}"
        )
    data = np.frombuffer(data_buffer, dtype=np.uint8)
    if len(chosen) == len(array):
        return data[offsets[0] : offsets[-1]].reshape(len(chosen), width)
    return data[offsets[:-1][chosen][:, None] + np.arange(width)]
