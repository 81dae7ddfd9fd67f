"""The graph of a run in one column, for narrow windows: a box per stage from top to bottom, edges on the left."""

from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.web.drawings.dag import HEIGHT_PX, DagStage, draw_box
from orchestrator.web.drawings.dag_layout import reduced_edges
from orchestrator.web.drawings.svg import element, group

BOX_PX, GAP_PX = 300, 16
LANE_PX, EDGE_PX, CORNER_PX = 9, 4, 6


def draw_dag_column(stages: Sequence[DagStage], *, name: str = "Stages") -> Markup:
    """The same as `draw_dag`, upstream first."""
    row_of = {stage.node: row for row, stage in enumerate(stages)}
    edges = [(row_of[a], row_of[b]) for a, b in reduced_edges({stage.node: stage.inputs for stage in stages})]
    lanes = lanes_of([edge for edge in edges if edge[1] - edge[0] > 1])
    left = EDGE_PX + LANE_PX * (1 + max(lanes.values(), default=-1))
    width = left + BOX_PX + EDGE_PX
    height = max(1, len(stages) * (HEIGHT_PX + GAP_PX) - GAP_PX + 2 * EDGE_PX)
    ids = [stage.node for stage in stages]
    paths = [
        element(
            "path",
            {
                "class": "edge",
                "d": _path(edge, left, lanes.get(edge)),
                "data-tie": " ".join(f"stage:{ids[row]}" for row in edge),
            },
        )
        for edge in edges
    ]
    boxes = [
        draw_box(stage, left, EDGE_PX + row * (HEIGHT_PX + GAP_PX), width=BOX_PX) for row, stage in enumerate(stages)
    ]
    return element(
        "svg",
        {
            "class": "dag",
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "group",
            "aria-label": name,
        },
        group(*paths, class_="edges"),
        *boxes,
    )


def lanes_of(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane for each edge between rows, so that no two in one lane run beside each other; short ones are inside."""
    lanes: dict[tuple[int, int], int] = {}
    for edge in sorted(edges, key=lambda edge: (edge[1] - edge[0], edge)):
        beside = {lane for other, lane in lanes.items() if other[0] < edge[1] and edge[0] < other[1]}
        lanes[edge] = next(lane for lane in range(len(edges)) if lane not in beside)
    return lanes


def _path(edge: tuple[int, int], left: float, lane: int | None) -> str:
    source, target = (EDGE_PX + row * (HEIGHT_PX + GAP_PX) for row in edge)
    if lane is None:
        x = left + BOX_PX / 2
        head = f"M{x - 3.5:.1f} {target - 5:.1f}L{x:.1f} {target:.1f}L{x + 3.5:.1f} {target - 5:.1f}"
        return f"M{x:.1f} {source + HEIGHT_PX:.1f}V{target:.1f}{head}"
    x, r = left - LANE_PX * (lane + 1), CORNER_PX
    y0, y1 = source + HEIGHT_PX * 0.65, target + HEIGHT_PX * 0.35
    return (
        f"M{left:.1f} {y0:.1f}H{x + r:.1f}q-{r} 0 -{r} {r}V{y1 - r:.1f}q0 {r} {r} {r}H{left:.1f}"
        f"M{left - 4:.1f} {y1 - 3:.1f}L{left:.1f} {y1:.1f}L{left - 4:.1f} {y1 + 3:.1f}"
    )
