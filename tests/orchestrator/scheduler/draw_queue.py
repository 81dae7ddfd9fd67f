"""Draws runs over time from their events, as an SVG: when each waited, worked, made room, and ended.

python tests/orchestrator/scheduler/draw_queue.py --store STORE_FOLDER FILE.svg    of the runs in a store
"""

import argparse
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.history.events import Event, event_from_json
from orchestrator.store.store import open_store

WIDTH, ROW, LEFT, TOP, BOTTOM = 900, 34, 240, 34, 36
COLOURS = {"waits": "#c9ced6", "works": "#2f7d5b", "made room": "#d08a2e"}
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED")


@dataclass(frozen=True, kw_only=True)
class Bar:
    what: str  # a key of COLOURS
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    bars: tuple[Bar, ...]


def row_of(events: Sequence[Event], label: str) -> Row:
    """What one run did when: it works while an attempt of it is running, otherwise it waits."""
    bars: list[Bar] = []
    since, what = events[0].time, "waits"
    for event in events:
        state = event.fields.get("to")
        begins = event.kind == "attempt_state" and state == "RUNNING"
        ends = (event.kind == "attempt_state" and state in ("COMMITTED", "CANCELLED", "FAILED", "LOST")) or (
            event.kind == "run_state" and state in ENDS
        )
        if (begins and what == "waits") or (ends and what == "works"):
            bars.append(Bar(what=what, begin=since, end=event.time))
            since, what = event.time, "works" if begins else "waits"
        if event.kind == "run_state" and state == "INTERRUPTED":
            bars.append(Bar(what="made room", begin=event.time, end=event.time))
        if event.kind == "run_state" and state == "SUCCEEDED":
            break
    return Row(label=label, bars=tuple(bars))


def draw(rows: Sequence[Row]) -> str:
    """The SVG, with a time axis in seconds."""
    begin = min(bar.begin for row in rows for bar in row.bars)
    end = max(bar.end for row in rows for bar in row.bars)
    scale = (WIDTH - LEFT - 20) / max(1e-9, end - begin)
    height = TOP + ROW * len(rows) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for number, (what, colour) in enumerate(COLOURS.items()):
        x = LEFT + number * 120
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="20" fill="#222222">{what}</text>')
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 20}" text-anchor="end" fill="#222222">{html.escape(row.label)}</text>'
        )
        for bar in row.bars:
            x, width = LEFT + (bar.begin - begin) * scale, (bar.end - bar.begin) * scale
            is_mark = bar.what == "made room"
            x, width, top, tall = (x - 2, 5, y + 2, 28) if is_mark else (x, max(1.0, width), y + 8, 16)
            parts.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{tall}" rx="2" fill="{COLOURS[bar.what]}"/>'
            )
    axis = TOP + len(rows) * ROW + 4
    parts.append(f'<line x1="{LEFT}" y1="{axis}" x2="{WIDTH - 20}" y2="{axis}" stroke="#888888"/>')
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 10**9) if (end - begin) / step <= 10)
    for tick in range(int((end - begin) / step) + 1):
        x = LEFT + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" y1="{axis}" x2="{x:.1f}" y2="{axis + 5}" stroke="#888888"/>')
        parts.append(f'<text x="{x:.1f}" y="{axis + 20}" text-anchor="middle" fill="#555555">{tick * step} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def rows_of(store_address: str) -> list[Row]:
    """Of all queued runs of a store, in the order in which they were submitted."""
    store = open_store(store_address)
    records = RunRecords(store)
    rows = []
    for run_id, start in records.runs():
        events = sorted((event_from_json(line) for line in records.events(run_id)), key=lambda event: event.sequence)
        submission = next((store.get(item.key) or b"" for item in store.list(f"queue/submissions/{run_id}")), b"")
        rows.append((events[0].time, row_of(events, label_of(submission, str(start.get("recipe", run_id))))))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def label_of(submission: bytes, recipe: str) -> str:

    record = json.loads(submission) if submission else {}
    needs = record.get("stages", [])
    cpus = f", {needs[0]['cpus']:g} CPUs" if needs else ""
    return f"{recipe}: {record.get('person', '?')}, priority {record.get('priority', 0)}{cpus}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.file.write_text(draw(rows_of(arguments.store)))


if __name__ == "__main__":
    main()
