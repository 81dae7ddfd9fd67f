"""Curves over steps, as the page shows them before its scripts draw charts to zoom into, and where there are none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.web.drawings.svg import element

WIDTH, HEIGHT = 600, 200  # units of the picture, stretched to its place
MAX_POINTS = 300  # of a curve
NUM_LOOKS = 6  # series of the stylesheet


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One series; a value that is no number leaves a gap."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


def draw_line_chart(curves: Sequence[Curve], *, name: str) -> Markup:
    """The curves on common axes; their lowest and highest values are said in words."""
    points = [(x, y) for curve in curves for x, y in zip(curve.steps, curve.values, strict=True) if math.isfinite(y)]
    if not points:
        return Markup("")
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = min(x for x, _ in points), max(x for x, _ in points)

    def place(x: float, y: float) -> str:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return f"{across * WIDTH:.1f} {HEIGHT - 8 - up * (HEIGHT - 16):.1f}"

    paths = []
    for index, curve in enumerate(curves):
        every = max(1, math.ceil(len(curve.steps) / MAX_POINTS))
        path, pen = "", "M"
        for x, y in list(zip(curve.steps, curve.values, strict=True))[::every]:
            path, pen = (path + pen + place(x, y), "L") if math.isfinite(y) else (path, "M")
        paths.append(element("path", {"class": f"curve series-{index % NUM_LOOKS + 1}", "d": path}))
    text = f"{name}: steps {first:g} to {last:g}, lowest {low:.4g}, highest {high:.4g}"
    frame = element("path", {"class": "frame", "d": f"M0 {HEIGHT}H{WIDTH}M0 0H{WIDTH}", "fill": "none"})
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "preserveAspectRatio": "none", "role": "img", "aria-label": text}
    return element("svg", {"class": "line-chart", **box}, frame, *paths)
