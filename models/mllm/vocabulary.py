"""The image tokens of the vocabulary: ids by arithmetic, never by rendering and re-tokenizing text.

Order of the ids, from `first_id`: 7 markers, heights, widths, semantic codes, pixel codes.
Source: ILLUME+ released vocabulary; for Qwen2.5 `first_id` is 151,665: 131,111 added tokens, 282,776 in all.
Legend: T tokens, Y X rows and columns of a code grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import DataError

Ids = npt.NDArray[np.int64]
Grid = tuple[int, int]  # rows, columns

IGNORED_LABEL = -100
# Ids that stand for positions of continuous features; they are replaced by projected features in order of appearance.
SEMANTIC_FEATURE = -201
PIXEL_FEATURE = -202

MARKERS = (
    "<start_of_image>",
    "<end_of_image>",
    "<end_of_line>",
    "<start_of_level0>",
    "<end_of_level0>",
    "<start_of_level1>",
    "<end_of_level1>",
)
PUBLISHED_RESOLUTIONS = tuple(range(64, 1024 + 1, 64))
QWEN2_5_FIRST_ID = 151_665


class BlockError(DataError):
    """Ids that are not one whole image block."""


@dataclass(frozen=True, kw_only=True)
class VisionVocabulary:
    """The ids of the image tokens. Heights and widths share `resolutions` (pixels per side)."""

    first_id: int
    semantic_codes: int
    pixel_codes: int
    resolutions: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.first_id < 0 or self.semantic_codes < 1 or self.pixel_codes < 1:
            raise ValueError(
                f"vocabulary: first_id {self.first_id}, semantic_codes {self.semantic_codes}, pixel_codes "
                f"{self.pixel_codes}; expected a first_id of at least 0 and at least one code per level"
            )
        if list(self.resolutions) != sorted(set(self.resolutions)) or any(side < 1 for side in self.resolutions):
            raise ValueError(
                f"vocabulary.resolutions: {self.resolutions}, expected distinct positive sides in ascending order"
            )

    @staticmethod
    def published(first_id: int = QWEN2_5_FIRST_ID) -> "VisionVocabulary":
        return VisionVocabulary(
            first_id=first_id, semantic_codes=32_768, pixel_codes=98_304, resolutions=PUBLISHED_RESOLUTIONS
        )

    @property
    def start_of_image(self) -> int:
        return self.first_id

    @property
    def end_of_image(self) -> int:
        return self.first_id + 1

    @property
    def end_of_line(self) -> int:
        return self.first_id + 2

    @property
    def start_of_level0(self) -> int:
        return self.first_id + 3

    @property
    def end_of_level0(self) -> int:
        return self.first_id + 4

    @property
    def start_of_level1(self) -> int:
        return self.first_id + 5

    @property
    def end_of_level1(self) -> int:
        return self.first_id + 6

    @property
    def height_range(self) -> range:
        start = self.first_id + len(MARKERS)
        return range(start, start + len(self.resolutions))

    @property
    def width_range(self) -> range:
        return range(self.height_range.stop, self.height_range.stop + len(self.resolutions))

    @property
    def semantic_range(self) -> range:
        return range(self.width_range.stop, self.width_range.stop + self.semantic_codes)

    @property
    def pixel_range(self) -> range:
        return range(self.semantic_range.stop, self.semantic_range.stop + self.pixel_codes)

    @property
    def size(self) -> int:
        """Number of added tokens."""
        return self.pixel_range.stop - self.first_id

    @property
    def total(self) -> int:
        """Number of ids with the text tokens below `first_id`."""
        return self.pixel_range.stop

    def height_id(self, height_px: int) -> int:
        return self.height_range[self._resolution_index(height_px, "height")]

    def width_id(self, width_px: int) -> int:
        return self.width_range[self._resolution_index(width_px, "width")]

    def tag_ids(self, resolution: Grid) -> Ids:
        """The height and the width token of a resolution (height, width) in pixels."""
        return np.array([self.height_id(resolution[0]), self.width_id(resolution[1])], dtype=np.int64)

    def tag_sizes(self, height_token: int, width_token: int) -> Grid:
        """(height, width) in pixels of a height and a width token. Raises: ValueError for other ids."""
        if height_token not in self.height_range or width_token not in self.width_range:
            raise ValueError(f"ids {height_token}, {width_token} are not a height and a width token of this vocabulary")
        return (
            self.resolutions[height_token - self.height_range.start],
            self.resolutions[width_token - self.width_range.start],
        )

    def semantic_ids(self, codes: npt.ArrayLike) -> Ids:
        """Ids of semantic codes, any shape. Raises: ValueError for a code outside the codebook."""
        return _shift(codes, self.semantic_range, "semantic")

    def pixel_ids(self, codes: npt.ArrayLike) -> Ids:
        """Ids of pixel codes, any shape. Raises: ValueError for a code outside the codebook."""
        return _shift(codes, self.pixel_range, "pixel")

    def block_ids(self, semantic_YX: npt.ArrayLike, pixel_YX: npt.ArrayLike, resolution: Grid | None = None) -> Ids:
        """One image as tokens [T]; with a resolution (height, width) in pixels, its two tags come first."""
        block = self._block(self.semantic_ids(semantic_YX), self.pixel_ids(pixel_YX))
        return block if resolution is None else np.concatenate([self.tag_ids(resolution), block])

    def feature_block_ids(self, semantic_grid: Grid, pixel_grid: Grid) -> Ids:
        """The layout of `block_ids` with a placeholder in place of every code [T]."""
        return self._block(np.full(semantic_grid, SEMANTIC_FEATURE), np.full(pixel_grid, PIXEL_FEATURE))

    def block_length(self, semantic_grid: Grid, pixel_grid: Grid) -> int:
        """Number of tokens of a block without tags."""
        return 6 + sum(rows * (columns + 1) for rows, columns in (semantic_grid, pixel_grid))

    def parse_block(self, ids: npt.ArrayLike) -> tuple[Ids, Ids]:
        """Semantic codes [Y,X] and pixel codes [Y,X] of one block, with or without tags in front.

        Raises: BlockError with the first wrong position.
        """
        block = np.asarray(ids)
        if block.ndim != 1 or block.dtype.kind not in "iu":
            raise BlockError(
                f"image block: expected a flat list of integer ids, found shape {block.shape} of {block.dtype}"
            )
        start = 2 if len(block) > 1 and block[0] in self.height_range and block[1] in self.width_range else 0
        at = _expect(
            block, start, (self.start_of_image, "<start_of_image>"), (self.start_of_level0, "<start_of_level0>")
        )
        semantic_YX, at = self._parse_rows(block, at, self.semantic_range, self.end_of_level0)
        at = _expect(block, at, (self.start_of_level1, "<start_of_level1>"))
        pixel_YX, at = self._parse_rows(block, at, self.pixel_range, self.end_of_level1)
        at = _expect(block, at, (self.end_of_image, "<end_of_image>"))
        if at != len(block):
            raise BlockError(f"image block: {len(block) - at} ids after <end_of_image>; pass one block at a time")
        return semantic_YX, pixel_YX

    def token_strings(self) -> Iterator[str]:
        """The added tokens in the order of their ids."""
        yield from MARKERS
        yield from (f"<height_{side}>" for side in self.resolutions)
        yield from (f"<width_{side}>" for side in self.resolutions)
        yield from (f"<|image_level0_{code}|>" for code in range(self.semantic_codes))
        yield from (f"<|image_level1_{code}|>" for code in range(self.pixel_codes))

    def _resolution_index(self, side_px: int, name: str) -> int:
        try:
            return self.resolutions.index(side_px)
        except ValueError:
            known = ", ".join(map(str, self.resolutions)) or "none"
            raise ValueError(f"no {name} token for {side_px} pixels; the vocabulary has {known}") from None

    def _block(self, semantic_YX: Ids, pixel_YX: Ids) -> Ids:
        return np.concatenate(
            [
                [self.start_of_image, self.start_of_level0],
                self._rows(semantic_YX, "semantic"),
                [self.end_of_level0, self.start_of_level1],
                self._rows(pixel_YX, "pixel"),
                [self.end_of_level1, self.end_of_image],
            ]
        ).astype(np.int64, copy=False)

    def _rows(self, ids_YX: Ids, name: str) -> Ids:
        if ids_YX.ndim != 2 or ids_YX.size == 0:
            raise ValueError(f"{name} codes have shape {ids_YX.shape}, expected [rows, columns], both at least 1")
        return np.pad(ids_YX, ((0, 0), (0, 1)), constant_values=self.end_of_line).ravel()

    def _parse_rows(self, block: npt.NDArray[Any], at: int, codes: range, end: int) -> tuple[Ids, int]:
        ends = np.flatnonzero(block[at:] == end)
        if len(ends) == 0:
            raise BlockError(f"image block: position {at} opens a level that is never closed (id {end} is missing)")
        level = block[at : at + ends[0]]
        columns = int(np.argmax(level == self.end_of_line)) if len(level) else 0
        if columns == 0 or len(level) % (columns + 1):
            raise BlockError(f"image block: the level at position {at} does not have rows of equal length, each closed")
        grid = level.reshape(-1, columns + 1)
        codes_YX = grid[:, :-1]
        wrong = np.argwhere((codes_YX < codes.start) | (codes_YX >= codes.stop) | (grid[:, -1:] != self.end_of_line))
        if len(wrong):
            row, column = wrong[0]
            raise BlockError(
                f"image block: position {at + row * (columns + 1) + column} has id {grid[row, column]} or its row "
                f"is not closed; expected code ids from {codes.start} to {codes.stop - 1}"
            )
        return (codes_YX - codes.start).astype(np.int64), at + int(ends[0]) + 1


def _expect(block: npt.NDArray[Any], at: int, *expected: tuple[int, str]) -> int:
    """Position after the expected ids."""
    for token, name in expected:
        if at >= len(block):
            raise BlockError(f"image block: ends at position {at}, expected {name} ({token})")
        if block[at] != token:
            raise BlockError(f"image block: position {at} has id {block[at]}, expected {name} ({token})")
        at += 1
    return at


def _shift(codes: npt.ArrayLike, ids: range, name: str) -> Ids:
    array = np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} codes have type {array.dtype}, expected integers")
    array = array.astype(np.int64)
    if array.size and (array.min() < 0 or array.max() >= len(ids)):
        raise ValueError(f"{name} codes reach from {array.min()} to {array.max()}, expected 0 to {len(ids) - 1}")
    return array + ids.start
