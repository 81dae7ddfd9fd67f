"""Tables on terminals that are too narrow for them: a row becomes a few lines."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

MIN_WRAPPED_WIDTH = 16  # of a column that may be wrapped
GAP = 2  # between columns


def print_table(table: Table, terminal: Console) -> None:
    terminal.print(fitted(table, terminal.width))


def fitted(table: Table, width: int) -> RenderableType:
    """The table, if each of its columns has room in `width`; else its rows, each as lines `title: value`."""
    if sum(_widths(table)) + GAP * (len(table.columns) - 1) <= width:
        return table
    lines = [Text(str(table.title), style="bold", overflow="fold")] if table.title else []
    lines += list(_row_lines(table))
    return Group(*lines, *([Text(str(table.caption), overflow="fold")] if table.caption else []))


def _widths(table: Table) -> Iterator[int]:
    for column in table.columns:
        texts = [_text(cell) for cell in (column.header, *column.cells)]
        longest = max((len(line) for text in texts for line in text.plain.splitlines()), default=0)
        yield longest if column.no_wrap else min(longest, MIN_WRAPPED_WIDTH)


def _row_lines(table: Table) -> Iterator[Text]:
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    titles = [_text(column.header).plain for column in table.columns]
    for row in rows:
        first, *rest = map(_text, row)
        first.stylize("bold")
        first.overflow = "fold"
        yield first
        for title, text in zip(titles[1:], rest, strict=True):
            if text.plain:
                yield Text("  ", overflow="fold").append(f"{title}: " if title else "").append_text(text)


def _text(cell: RenderableType) -> Text:
    """A cell as text; none for a progress bar, whose numbers have a column of their own."""
    return cell.copy() if isinstance(cell, Text) else Text(cell) if isinstance(cell, str) else Text("")
