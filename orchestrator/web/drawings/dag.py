"""The graph of a run: a box per stage with its state, what it says now and why it runs or not; edges between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.web.drawings.dag_layout import DagLayout, Link, Slot, lay_out
from orchestrator.web.drawings.icons import glyph
from orchestrator.web.drawings.states import tone_of
from orchestrator.web.drawings.svg import element, fit_text, group, link, title

WIDTH_PX, HEIGHT_PX = 184, 66  # of a box
GAP_X_PX, GAP_Y_PX, BAND_GAP_PX = 32, 14, 34
LANE_PX = 7  # between two edges that run beside each other at the margin
CORNER_PX = 6
NAME_PX, NOTE_PX = 13, 11.5  # sizes of text


@dataclass(frozen=True, kw_only=True)
class DagStage:
    """A stage as the graph shows it."""

    stage_id: str
    state: str
    inputs: tuple[str, ...] = ()  # ids of the stages that it reads
    note: str = ""  # what it does or took: `2 min`, `71 %, 4 min left`
    why: str = ""  # why it runs or is reused
    href: str = ""
    share: float | None = None  # of a running stage's work that is done, 0 to 1
    key: str = ""  # by which others name it in their inputs; empty: its id

    @property
    def node(self) -> str:
        return self.key or self.stage_id


def draw_dag(stages: Sequence[DagStage], *, columns: int = 6, name: str = "Stages") -> Markup:
    """The graph, upstream first, in bands of at most `columns` layers."""
    layout = lay_out({stage.node: stage.inputs for stage in stages})
    page = _Page(layout, columns)
    edges = [_edge(page, piece) for piece in _numbered(layout, page)]
    boxes = [draw_box(stage, *page.corner(slot)) for stage in stages for slot in [page.slot_of[stage.node]]]
    return element(
        "svg",
        {
            "class": "dag",
            "viewBox": f"0 0 {page.width} {page.height}",
            "width": page.width,
            "height": page.height,
            "role": "group",
            "aria-label": name,
        },
        group(*edges, class_="edges"),
        *boxes,
    )


class _Page:
    """Sizes and places on the page."""

    def __init__(self, layout: DagLayout, columns: int) -> None:
        self.layout = layout
        self.columns = max(1, columns)
        self.slot_of = {slot.stage_id: slot for slot in layout.slots if slot.is_stage}
        self.num_bands = -(-layout.num_layers // self.columns)
        folds = [sum(self._is_fold(link, band) for link in layout.links) for band in range(self.num_bands)]
        self.margin = 2 + (LANE_PX * (max(folds, default=0) + 1) if self.num_bands > 1 else 0)
        used = min(self.columns, layout.num_layers)
        self.width = 2 * self.margin + max(0, used * (WIDTH_PX + GAP_X_PX) - GAP_X_PX)
        self._tops, top = [], 2
        for band in range(self.num_bands):
            self._tops.append(top)
            top += self.band_height(band) + BAND_GAP_PX
        self.height = max(1, top - BAND_GAP_PX + 2)

    def band_of(self, slot: Slot) -> int:
        return slot.layer // self.columns

    def band_height(self, band: int) -> int:
        layers = range(band * self.columns, min(self.layout.num_layers, (band + 1) * self.columns))
        return max(self.layout.rows_of(layer) for layer in layers) * (HEIGHT_PX + GAP_Y_PX) - GAP_Y_PX

    def gutter(self, band: int) -> float:
        """The height of the space below a band."""
        return self._tops[band] + self.band_height(band) + BAND_GAP_PX / 2

    def corner(self, slot: Slot) -> tuple[float, float]:
        """Left and top of a slot; the rows of a layer are centred in its band."""
        band = self.band_of(slot)
        rows = self.layout.rows_of(slot.layer) * (HEIGHT_PX + GAP_Y_PX) - GAP_Y_PX
        top = self._tops[band] + (self.band_height(band) - rows) / 2 + slot.row * (HEIGHT_PX + GAP_Y_PX)
        return self.margin + slot.layer % self.columns * (WIDTH_PX + GAP_X_PX), top

    def _is_fold(self, link: Link, band: int) -> bool:
        return self.band_of(link.source) == band != self.band_of(link.target)


def _numbered(layout: DagLayout, page: _Page) -> Iterator[tuple[Link, int]]:
    """Each link with its lane: edges of one source share it where they cross from a band to the next."""
    lanes: dict[tuple[int, str], int] = {}
    for piece in layout.links:
        band = page.band_of(piece.source)
        if band == page.band_of(piece.target):
            yield piece, 0
            continue
        used = sum(key[0] == band for key in lanes)
        yield piece, lanes.setdefault((band, piece.edge[0]), used)


def _edge(page: _Page, numbered: tuple[Link, int]) -> Markup:
    piece, lane = numbered
    left, top = page.corner(piece.source)
    right, end = page.corner(piece.target)
    x0, y0 = left + WIDTH_PX if piece.source.is_stage else left, top + HEIGHT_PX / 2
    x1, y1 = right, end + HEIGHT_PX / 2
    through = "" if piece.source.is_stage else f"M{left:.1f} {y0:.1f}H{left + WIDTH_PX:.1f}"
    x0 = left + WIDTH_PX
    if page.band_of(piece.source) == page.band_of(piece.target):
        middle = (x0 + x1) / 2
        path = f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    else:
        path = _folded(page, x0, y0, x1, y1, page.gutter(page.band_of(piece.source)), lane)
    head = (
        f"M{x1 - 5:.1f} {y1 - 3.5:.1f}L{x1:.1f} {y1:.1f}L{x1 - 5:.1f} {y1 + 3.5:.1f}" if piece.target.is_stage else ""
    )
    tie = f"stage:{piece.edge[0]} stage:{piece.edge[1]}"
    return element("path", {"class": "edge", "d": through + path + head, "data-tie": tie})


def _folded(page: _Page, x0: float, y0: float, x1: float, y1: float, gutter: float, lane: int) -> str:
    """From the end of a band around its right margin, below it, and into the next from the left."""
    out = x0 + LANE_PX * (lane + 1)
    into = x1 - LANE_PX * (lane + 1) - 3
    level = gutter + (lane - 0.5) * LANE_PX
    r = CORNER_PX
    return (
        f"M{x0:.1f} {y0:.1f}H{out - r:.1f}q{r} 0 {r} {r}V{level - r:.1f}q0 {r} -{r} {r}"
        f"H{into + r:.1f}q-{r} 0 -{r} {r}V{y1 - r:.1f}q0 {r} {r} {r}H{x1:.1f}"
    )


def draw_box(stage: DagStage, left: float, top: float, *, width: float = WIDTH_PX) -> Markup:
    """The box of a stage, a link where the stage has an address."""
    tone = tone_of(stage.state)
    name_px, room = width - 44, width - 24
    lines = [
        title(f"{stage.stage_id}: {tone.label.lower()}{_more(stage.note)}{_more(stage.why)}"),
        element("rect", {"class": "box", "width": width, "height": HEIGHT_PX, "rx": 7}),
        element("rect", {"class": "edge-mark", "x": 0.5, "y": 8, "width": 3.5, "height": HEIGHT_PX - 16, "rx": 1.75}),
        group(glyph(tone.name), class_="state-icon", transform="translate(12 8)"),
        element("text", {"class": "name", "x": 35, "y": 20.5}, fit_text(stage.stage_id, name_px, NAME_PX)),
        element("text", {"class": "note", "x": 13, "y": 38}, fit_text(_note(stage), room, NOTE_PX)),
        element("text", {"class": "why", "x": 13, "y": 54}, fit_text(stage.why, room, NOTE_PX)),
    ]
    if tone.name == "running" and stage.share is not None:
        rail = {"x": 12, "y": HEIGHT_PX - 5, "height": 2.5}
        done = (width - 24) * min(1.0, max(0.0, stage.share))
        lines.append(element("rect", {"class": "rail", **rail, "width": width - 24}))
        lines.append(element("rect", {"class": "done", **rail, "width": done}))
    place = f"translate({left:.1f} {top:.1f})"
    tie = f"stage:{stage.node}"
    return link(stage.href, *lines, class_=f"stage tone-{tone.name}", transform=place, data_tie=tie)


def _note(stage: DagStage) -> str:
    label = tone_of(stage.state).label
    return f"{label} · {stage.note}" if stage.note else label


def _more(text: str) -> str:
    return f"; {text}" if text else ""
