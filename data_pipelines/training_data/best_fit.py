"""Packing by best fit inside windows of the stream: less padding than next fit, and still a pure function of lengths.

A window is a stretch of `WINDOW` positions. Its samples are placed into rows from the longest to the shortest, each
into the fullest row that has room. No row crosses a window, so a window's rows depend on its own lengths only, and
packing can continue from any known row. Samples are never split.
"""

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.packing import Integers, Lengths, RowStart, check_lengths

WINDOW = 1_024  # positions: about 100 rows of 16,384 tokens, of which only the last ones have room left
WINDOWS_AT_ONCE = 16  # whose lengths are read together
KEPT_WINDOWS = 64
MAX_EMPTY_WINDOWS = 16_384  # in succession, before nearly all samples are taken to be left out


@dataclass(frozen=True, kw_only=True)
class WindowRows:
    """The rows of one window. `rows` has a value for each position: its row, from 0; -1 where it is left out."""

    rows: Integers
    num_rows: int


def pack_window(lengths: Integers, row_tokens: int) -> WindowRows:
    """Best fit decreasing; rows are numbered by their first position. Raises: ValueError if a length exceeds a row."""
    check_lengths(lengths, row_tokens)
    placed = np.full(len(lengths), -1, dtype=np.int64)
    open_rows: list[tuple[int, int]] = []  # (tokens left, row), sorted
    num_rows = 0
    for position in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[position])
        if not length:
            break
        at = bisect_left(open_rows, (length, -1))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
        else:
            room, row = row_tokens, num_rows
            num_rows += 1
        placed[position] = row
        insort(open_rows, (room - length, row))
    first = {row: position for position, row in reversed(list(enumerate(placed.tolist()))) if row >= 0}
    numbers = np.full(num_rows + 1, -1, dtype=np.int64)  # the last one is that of -1
    numbers[sorted(first, key=first.__getitem__)] = np.arange(num_rows)
    return WindowRows(rows=numbers[placed], num_rows=num_rows)


class WindowPlan:
    """`packing.RowPlan` by best fit: the first row of each window, computed as far as needed and kept."""

    def __init__(self, lengths: Lengths, row_tokens: int, *, start: RowStart | None = None) -> None:
        if row_tokens < 1:
            raise ValueError(f"row_tokens: {row_tokens}; expected at least 1")
        self._lengths, self._row_tokens = lengths, row_tokens
        self._recent: OrderedDict[int, WindowRows] = OrderedDict()
        self._first_window, first_row = 0, 0
        if start is not None:
            self._first_window, at = divmod(start.position, WINDOW)
            first_row = start.row - int(self._window(self._first_window).rows[at])
        self._rows = array("q", [first_row])  # first row of each window from the first one on
        self._first_row = start.row if start else 0
        self._first_position = start.position if start else 0

    def positions(self, row: int) -> Integers:
        """The positions of a row, in order. Raises: ValueError for a row before the start of the plan."""
        window = self._window_of_row(row)
        found = np.flatnonzero(self._window(window).rows == row - self._rows[window - self._first_window])
        return found + window * WINDOW

    def rows_of(self, positions: npt.ArrayLike) -> Integers:
        """The row of each position; of a sample that is left out, the first of its window."""
        wanted = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        if wanted.size and wanted.min() < self._first_window * WINDOW:
            raise ValueError(f"position {wanted.min()}: this plan starts at position {self._first_position}")
        rows = np.empty(wanted.shape, dtype=np.int64)
        windows = wanted // WINDOW
        last = int(windows.max()) - self._first_window if wanted.size else 0
        self._extend_until(lambda: len(self._rows) > last)
        for window in np.unique(windows).tolist():
            of_window = windows == window
            local = self._window(window).rows[wanted[of_window] - window * WINDOW]
            rows[of_window] = np.maximum(local, 0) + self._rows[window - self._first_window]
        return rows

    def start_of(self, row: int) -> RowStart:
        return RowStart(row=row, position=int(self.positions(row)[0]))

    def stop(self, row: int) -> int:
        """From this position on, no sample is in the row or in one before it."""
        return (self._window_of_row(row) + 1) * WINDOW

    def _window_of_row(self, row: int) -> int:
        if row < self._first_row:
            raise ValueError(f"row {row}: this plan starts at row {self._first_row}; open it from an earlier position")
        self._extend_until(lambda: self._rows[-1] > row)
        starts = np.frombuffer(self._rows, dtype=np.int64)
        return self._first_window + int(np.searchsorted(starts, row, side="right")) - 1

    def _extend_until(self, is_enough: Callable[[], bool]) -> None:
        empty = 0
        while not is_enough():
            window = self._first_window + len(self._rows) - 1
            num_rows = self._window(window).num_rows
            self._rows.append(self._rows[-1] + num_rows)
            empty = 0 if num_rows else empty + 1
            if empty > MAX_EMPTY_WINDOWS:
                raise ValueError(
                    f"no row could be filled from {empty * WINDOW} samples before position {(window + 1) * WINDOW}: "
                    "nearly all are left out; see the reasons in the index of the training data"
                )

    def _window(self, window: int) -> WindowRows:
        if window not in self._recent:
            begin = window * WINDOW
            lengths = self._lengths(begin, begin + WINDOWS_AT_ONCE * WINDOW)
            for number, part in enumerate(lengths.reshape(WINDOWS_AT_ONCE, WINDOW)):
                self._recent.setdefault(window + number, pack_window(part, self._row_tokens))
            while len(self._recent) > KEPT_WINDOWS:
                self._recent.popitem(last=False)
        self._recent.move_to_end(window)
        return self._recent[window]
