"""The drawings by the names under which templates call them."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.web.drawings.dag import draw_dag
from orchestrator.web.drawings.dag_column import draw_dag_column
from orchestrator.web.drawings.gantt import draw_gantt, hatchings
from orchestrator.web.drawings.heat_strip import draw_heat_strip
from orchestrator.web.drawings.icons import icon
from orchestrator.web.drawings.line_chart import draw_line_chart
from orchestrator.web.drawings.sparkline import draw_sparkline
from orchestrator.web.drawings.stage_strip import draw_stage_strip
from orchestrator.web.drawings.states import tone_of

DRAWINGS: Mapping[str, Callable[..., Any]] = {
    "draw_dag": draw_dag,
    "draw_dag_column": draw_dag_column,
    "draw_gantt": draw_gantt,
    "draw_heat_strip": draw_heat_strip,
    "draw_line_chart": draw_line_chart,
    "draw_sparkline": draw_sparkline,
    "draw_stage_strip": draw_stage_strip,
    "hatchings": hatchings,
    "icon": icon,
    "tone_of": tone_of,
}
