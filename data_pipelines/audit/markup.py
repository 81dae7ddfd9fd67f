"""What the templates of pages are rendered with: their environment, filters, charts and the budget of images.

Pages are files that open offline. All text in them comes from outside: Jinja2 escapes every value, characters that
could hide or reverse text are replaced, and an unknown name is an error. Images are small JPEGs that we encode,
embedded in the page. A page loads and runs nothing: the policy in `base.html` forbids it.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from data_pipelines.audit.histograms import Histogram
from data_pipelines.audit.summary import bytes_text, printable

MAX_IMAGE_BYTES = 3 << 20  # of all JPEGs of a page; base64 adds a third
HISTOGRAM_TITLES = {
    "width": "Width, pixels",
    "height": "Height, pixels",
    "aspect": "Width / height",
    "bytes": "Size of the first image's file",
    "caption": "Length of the text, characters",
    "entropy": "Entropy, bits",
    "sharpness": "Sharpness",
    "contrast": "Contrast, grey values",
}


@cache
def page_environment(package: str = "data_pipelines.audit") -> Environment:
    """The environment for the folder `templates/` of a package; `base.html` and `page.css` are found from every one.

    Example: `page_environment().get_template("audit.html").render(summary=summary, ...)`
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("data_pipelines.audit")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_url": data_url,
        "percent": lambda share, digits=1: f"{share:.{digits}%}",
        "shortened": shortened,
        "bytes": bytes_text,
        "thousands": lambda number: f"{number:,}",
        "breakable": breakable,
    }
    return environment


def visible(value: object) -> object:
    """A value as it is written to a page: unprintable characters become U+FFFD, markup of templates stays as it is."""
    return value if isinstance(value, Markup) else printable(str(value))


def shortened(value: object, max_chars: int) -> str:
    """The value with single spaces, cut at `max_chars`."""
    text = " ".join(str(value or "").split())
    return text if len(text) <= max_chars else text[: max_chars - 1] + "\u2026"


def breakable(value: object) -> Markup:
    """The value, escaped, with places where a line may break behind the underscores and dots of long names."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_./])(?=\w)", str(visible(value))))


def data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


class ImageBudget:
    """Room for images in a page, up to a total of `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self._left_bytes = max_bytes

    def take(self, jpeg: bytes) -> bool:
        """Take the room for an image; False if it is larger than what is left."""
        if len(jpeg) > self._left_bytes:
            return False
        self._left_bytes -= len(jpeg)
        return True


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a chart that is 1000 wide and 100 high; numbers as SVG text."""

    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, kw_only=True)
class ChartBar:
    """A bin: kept rows below, the others above them."""

    low: str
    high: str
    rows: int
    kept: Box
    not_kept: Box


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A bar chart of the bins from the first to the last that is not empty."""

    title: str
    low: str
    median: str
    high: str
    bars: tuple[ChartBar, ...]


def chart(name: str, histogram: Histogram) -> Chart | None:
    """The chart of a histogram of the audit; None if it counts no row."""
    used = (histogram.kept + histogram.not_kept).nonzero()[0]
    if not len(used):
        return None
    first, last = int(used[0]), int(used[-1]) + 1
    return Chart(
        title=HISTOGRAM_TITLES[name],
        low=_value(name, histogram.edges[first]),
        median=_value(name, histogram.median()),
        high=_value(name, histogram.edges[last]),
        bars=tuple(_bars(name, histogram, first, last)),
    )


def _bars(name: str, histogram: Histogram, first: int, last: int) -> Iterator[ChartBar]:
    totals = histogram.kept + histogram.not_kept
    step, full = 1000 / (last - first), int(totals.max())
    for index in range(first, last):
        if not totals[index]:
            continue
        kept, all_rows = 100 * histogram.kept[index] / full, 100 * totals[index] / full
        left, width = f"{(index - first) * step:.1f}", f"{max(1.0, step * 0.92):.1f}"
        yield ChartBar(
            low=_value(name, histogram.edges[index]),
            high=_value(name, histogram.edges[index + 1]),
            rows=int(totals[index]),
            kept=Box(x=left, y=f"{100 - kept:.1f}", width=width, height=f"{kept:.1f}"),
            not_kept=Box(x=left, y=f"{100 - all_rows:.1f}", width=width, height=f"{all_rows - kept:.1f}"),
        )


def _value(name: str, edge: float) -> str:
    if name == "bytes":
        return bytes_text(int(edge))
    return f"{edge:,.0f}" if edge >= 100 else f"{edge:.3g}"
