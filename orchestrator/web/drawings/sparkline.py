"""A curve of the size of a word."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.web.drawings.svg import Attributes, element

WIDTH_PX, HEIGHT_PX, EDGE_PX = 96, 22, 3
MAX_POINTS = 96


def draw_sparkline(values: Sequence[float], *, name: str) -> Markup:
    """The values from left to right; those that are no number leave a gap. `name` says what they are."""
    kept = thinned(values)
    finite = [value for value in kept if math.isfinite(value)]
    if not finite:
        return Markup("")
    low, high = min(finite), max(finite)
    step = (WIDTH_PX - 2 * EDGE_PX) / max(1, len(kept) - 1)

    def place(index: int, value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{EDGE_PX + index * step:.1f} {HEIGHT_PX - EDGE_PX - share * (HEIGHT_PX - 2 * EDGE_PX):.1f}"

    path, pen = "", "M"
    for index, value in enumerate(kept):
        if not math.isfinite(value):
            pen = "M"
            continue
        path += pen + place(index, value)
        pen = "L"
    last = max(index for index, value in enumerate(kept) if math.isfinite(value))
    x, y = place(last, kept[last]).split()
    text = f"{name}: from {finite[0]:.4g} to {finite[-1]:.4g}, lowest {low:.4g}, highest {high:.4g}"
    size: Attributes = {"viewBox": f"0 0 {WIDTH_PX} {HEIGHT_PX}", "width": WIDTH_PX, "height": HEIGHT_PX}
    return element(
        "svg",
        {"class": "spark", **size, "role": "img", "aria-label": text},
        element("path", {"class": "curve", "d": path}),
        element("circle", {"class": "end", "cx": x, "cy": y, "r": 2}),
    )


def thinned(values: Sequence[float], *, max_points: int = MAX_POINTS) -> list[float]:
    """At most `max_points` of the values: the first and last of all, equally far apart between."""
    if len(values) <= max_points:
        return list(values)
    return [values[round(index * (len(values) - 1) / (max_points - 1))] for index in range(max_points)]
