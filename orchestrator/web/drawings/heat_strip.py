"""The shards of a map in one small picture: cells of neighbouring shards, dark where one took long, and marks below
for those that were retried, quarantined or are missing. 100,000 shards make as large a picture as 500."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.web.drawings.svg import Attributes, element, group, link, percent, title

MAX_CELLS = 240
NUM_SHADES = 5
MISSING = -1.0
STRIP_PX, MARK_PX, LINE_PX = 28, 6, 9  # height of the cells, of a mark, from one line of marks to the next
SHADE_SHARES = (0.25, 0.5, 0.9, 0.99)  # of the cells' slowest shards, where a darker shade begins


@dataclass(frozen=True, kw_only=True)
class ShardColumns:
    """The shards of a map, by place. Arrays, so that a cell is made of slices: 100,000 shards take 10 ms."""

    seconds: "array[float]"  # `MISSING`: not made by this attempt, or not recorded yet
    tries: "array[int]"
    quarantined: "array[int]"  # items
    existed: bytearray  # 1: it was there before, so nothing else is known of it


@dataclass(frozen=True, kw_only=True)
class ShardCell:
    """Neighbouring shards: `first` to `last`, both within."""

    first: int
    last: int
    num_done: int = 0
    slowest_s: float = 0.0
    slowest: int | None = None  # its index
    num_retried: int = 0
    num_quarantined: int = 0


def shard_cells(shards: ShardColumns, *, max_cells: int = MAX_CELLS) -> tuple[ShardCell, ...]:
    """The cells of a map."""
    num_shards = len(shards.seconds)
    size = max(1, math.ceil(num_shards / max_cells))
    return tuple(_cell_of(shards, first, min(num_shards, first + size)) for first in range(0, num_shards, size))


def _cell_of(shards: ShardColumns, first: int, end: int) -> ShardCell:
    seconds, tries = shards.seconds[first:end], shards.tries[first:end]
    slowest_s = max(seconds)
    num_made = len(seconds) - seconds.count(MISSING)
    return ShardCell(
        first=first,
        last=end - 1,
        num_done=num_made + shards.existed.count(1, first, end),
        slowest_s=slowest_s if num_made else 0.0,
        slowest=first + seconds.index(slowest_s) if num_made else None,
        num_retried=sum(number > 1 for number in tries) if max(tries) > 1 else 0,
        num_quarantined=sum(shards.quarantined[first:end]),
    )


def draw_heat_strip(cells: Sequence[ShardCell], *, href: str = "", name: str = "Shards") -> Markup:
    """The picture. `href` leads to a range of shards, with `{first}` and `{last}` in it; empty: no links."""
    total = cells[-1].last + 1 if cells else 0
    limits = _limits(cells)
    height = STRIP_PX + 2 + 3 * LINE_PX
    return element(
        "svg",
        {
            "class": "heat",
            "width": "100%",
            "height": height,
            "role": "img" if not href else "group",
            "aria-label": f"{name}: {strip_text(cells)}",
        },
        *(_cell(cell, total, limits, href) for cell in cells),
    )


def strip_text(cells: Sequence[ShardCell]) -> str:
    """The strip in words: `99,998 of 100,000 recorded, 12 retried, 2 items quarantined, slowest 41.2 s (shard 7)`."""
    total = cells[-1].last + 1 if cells else 0
    done, retried = sum(cell.num_done for cell in cells), sum(cell.num_retried for cell in cells)
    quarantined = sum(cell.num_quarantined for cell in cells)
    slowest = max((cell for cell in cells if cell.slowest is not None), key=lambda cell: cell.slowest_s, default=None)
    text = f"{done:,} of {total:,} recorded, {retried:,} retried, {quarantined:,} items quarantined"
    return text if slowest is None else f"{text}, slowest {slowest.slowest_s:.1f} s (shard {slowest.slowest:,})"


def _limits(cells: Sequence[ShardCell]) -> list[float]:
    """Seconds above which a darker shade begins; the slowest of all is darkest, also among few."""
    times = sorted(cell.slowest_s for cell in cells if cell.slowest is not None)
    below = [time_s for time_s in times if time_s < times[-1]]
    return [below[int(share * len(below))] for share in SHADE_SHARES] if below else []


def _cell(cell: ShardCell, total: int, limits: Sequence[float], href: str) -> Markup:
    size = cell.last - cell.first + 1
    left, width = percent(cell.first, total), percent(size, total)
    shade = sum(cell.slowest_s > limit for limit in limits) if cell.num_done else 0
    kind = "none" if not cell.num_done else f"{shade}" if cell.num_done == size else f"{shade} part"
    parts = [
        title(_cell_text(cell, size)),
        element("rect", {"class": f"cell shade-{kind}", "x": left, "y": 0, "width": width, "height": STRIP_PX}),
    ]
    marks = (("missing", size - cell.num_done), ("retried", cell.num_retried), ("quarantined", cell.num_quarantined))
    for line, (mark, count) in enumerate(marks):
        if count:
            top = STRIP_PX + 4 + line * LINE_PX
            box: Attributes = {"class": f"mark {mark}", "x": left, "y": top, "width": width, "height": MARK_PX}
            parts.append(element("rect", box))
    if not href:
        return group(*parts)
    tabindex = 0 if cell.first == 0 else -1  # one stop of the Tab key; arrows go on from there (`keys.js`)
    return link(href.format(first=cell.first, last=cell.last), *parts, tabindex=tabindex)


def _cell_text(cell: ShardCell, size: int) -> str:
    where = f"shard {cell.first:,}" if size == 1 else f"shards {cell.first:,} to {cell.last:,}"
    parts = [where, f"{cell.num_done:,} of {size:,} recorded"]
    if cell.slowest is not None:
        parts.append(f"slowest {cell.slowest_s:.1f} s (shard {cell.slowest:,})")
    if cell.num_retried:
        parts.append(f"{cell.num_retried:,} retried")
    if cell.num_quarantined:
        parts.append(f"{cell.num_quarantined:,} items quarantined")
    return "; ".join(parts)
