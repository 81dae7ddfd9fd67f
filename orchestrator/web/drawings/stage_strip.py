"""The strip of a run: one small block per stage, upstream first, so that a list of runs can be read at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.web.drawings.states import tone_of
from orchestrator.web.drawings.svg import element, group, title

BLOCK_PX, GAP_PX, HEIGHT_PX = 12, 3, 18
MAX_BLOCKS = 48  # stages beyond are counted, not drawn


@dataclass(frozen=True, kw_only=True)
class StripStage:
    """One stage of the strip."""

    stage_id: str
    state: str
    share: float | None = None  # of a running stage's work that is done, 0 to 1


def draw_stage_strip(stages: Sequence[StripStage], *, name: str) -> Markup:
    """The strip; `name` is the run that it belongs to, for those who cannot see it."""
    drawn = stages[:MAX_BLOCKS]
    width = max(1, len(drawn) * (BLOCK_PX + GAP_PX) - GAP_PX)
    blocks = [_block(stage, index * (BLOCK_PX + GAP_PX)) for index, stage in enumerate(drawn)]
    more = [element("span", {"class": "more"}, f"+{len(stages) - len(drawn)}")] if len(stages) > len(drawn) else []
    picture = element(
        "svg",
        {
            "class": "strip",
            "viewBox": f"0 0 {width} {HEIGHT_PX}",
            "width": width,
            "height": HEIGHT_PX,
            "role": "img",
            "aria-label": f"{name}: {summary_text(stages)}",
        },
        *blocks,
    )
    return Markup("").join([picture, *more])


def summary_text(stages: Sequence[StripStage]) -> str:
    """How many stages are in which state: `3 made, 1 running`."""
    counts: dict[str, int] = {}
    for stage in stages:
        label = tone_of(stage.state).label.lower()
        counts[label] = counts.get(label, 0) + 1
    return ", ".join(f"{count} {label}" for label, count in counts.items()) or "no stages"


def _block(stage: StripStage, left: int) -> Markup:
    tone = tone_of(stage.state)
    box = {"x": left + 0.5, "y": 0.5, "width": BLOCK_PX - 1, "height": HEIGHT_PX - 1, "rx": 2.5}
    parts = [title(f"{stage.stage_id}: {tone.label.lower()}"), element("rect", {"class": "block", **box})]
    if tone.name == "running":
        done = (HEIGHT_PX - 1) * min(1.0, max(0.0, stage.share if stage.share is not None else 0.5))
        bottom = {"x": left + 0.5, "y": HEIGHT_PX - 0.5 - done, "width": BLOCK_PX - 1, "height": done, "rx": 2}
        parts.append(element("rect", {"class": "done", **bottom}))
    mark = _MARKS.get(tone.name)
    if mark:
        parts.append(element("path", {"class": "mark", "d": mark, "transform": f"translate({left} 3)"}))
    return group(*parts, class_=f"tone-{tone.name}")


_MARKS = {  # on a grid of 12 px
    "failed": "M3.5 3.5l5 5M8.5 3.5l-5 5",
    "lost": "M7 2L4 6.5h3L5 10",
    "cancelled": "M3.5 9l5-6",
    "waiting": "M6 3v3.2l2 1.3",
    "reused": "M3.5 6h5M6.5 4l2 2-2 2",
    "recovered": "M3 6.5l2-2.5 2 4 2-2.5",
    "warned": "M6 2.5v4.5M6 9v.1",
}
