"""A whole as one bar of its parts: what was kept of a dataset, and what was not."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.web.drawings.svg import Attributes, element, group, percent, title

HEIGHT_PX = 10


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    count: float
    look: int  # of the stylesheet's looks of parts, 1 to 5


def draw_share_bar(parts: Sequence[Part], *, name: str) -> Markup:
    """The bar; parts of 0 are not drawn. All counts are said in words."""
    total = sum(part.count for part in parts)
    text = ", ".join(f"{part.count:,.0f} {part.name}" for part in parts if part.count) or "nothing"
    drawn, left = [], 0.0
    for part in parts:
        if part.count > 0:
            box: Attributes = {
                "x": percent(left, total),
                "y": 0,
                "width": percent(part.count, total),
                "height": HEIGHT_PX,
            }
            share = f"{part.name}: {part.count:,.0f}, {part.count / total:.1%}"
            drawn.append(group(title(share), element("rect", {"class": f"part part-{part.look}", **box})))
            left += part.count
    size: Attributes = {"width": "100%", "height": HEIGHT_PX, "role": "img", "aria-label": f"{name}: {text}"}
    return element("svg", {"class": "share-bar", **size}, Markup(""), *drawn)
