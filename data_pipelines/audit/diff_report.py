"""A comparison of two curated datasets for people and scripts: text, JSON, and a part of an HTML page with images.

All text comes from outside and is escaped; images are small JPEGs inside the page.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from data_pipelines.audit.diff import DatasetDiff, DiffSide, Example, RecordLocation, Transition
from data_pipelines.audit.markup import page_environment
from data_pipelines.audit.samples import THUMBNAIL_SIDE
from data_pipelines.audit.summary import printable
from data_pipelines.audit.thumbnails import read_thumbnails
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail

MAX_PAGE_IMAGES = 200
KEPT = "keep"


def dataset_diff_to_json(diff: DatasetDiff) -> dict[str, Any]:
    return {
        "rows": list(diff.rows),
        "added": diff.added,
        "removed": diff.removed,
        "changed_verdict": diff.changed,
        "verdicts": {name: list(pair) for name, pair in diff.verdicts.items()},
        "reasons": {name: list(pair) for name, pair in diff.reasons.items()},
        "shards": list(diff.shards),
        "equal_shards": diff.equal_shards,
        "changes": [
            {
                "before": change.before,
                "after": change.after,
                "records": change.records,
                "examples": [_example_to_json(example) for example in change.examples],
            }
            for change in diff.transitions
        ],
    }


def dataset_diff_lines(diff: DatasetDiff) -> list[str]:
    """For a terminal: totals, counts that differ, and the kinds of change."""
    kept = diff.verdicts.get(KEPT, (0, 0))
    shards = f", {diff.equal_shards:,} of {diff.shards[1]:,} shards are the same" if diff.equal_shards else ""
    lines = [
        f"{diff.rows[0]:,} -> {diff.rows[1]:,} records, {kept[0]:,} -> {kept[1]:,} kept{shards}",
        f"{diff.added:,} added, {diff.removed:,} removed, {diff.changed:,} with a changed verdict",
    ]
    counts = [(name, pair) for name, pair in {**diff.verdicts, **diff.reasons}.items() if pair[0] != pair[1]]
    width = max((len(printable(name)) for name, _ in counts), default=0)
    lines += [
        f"  {printable(name):<{width}}  {old:>11,} -> {new:>11,}  {new - old:>+11,}" for name, (old, new) in counts
    ]
    lines += [f"  {printable(change_text(change))}: {change.records:,}" for change in diff.transitions]
    return lines


def change_text(change: Transition) -> str:
    if change.before is None:
        return f"added as {change.after}"
    if change.after is None:
        return f"removed, was {change.before}"
    return f"{change.before} -> {change.after}"


def dataset_diff_html(diff: DatasetDiff, before: DiffSide, after: DiffSide) -> Markup:
    """A part of a page in the style of the audit's; `before` and `after` are the folders that images come from."""
    part = page_environment().get_template("dataset_diff.html")
    return Markup(
        part.render(
            diff=diff,
            verdicts=_largest_differences(diff.verdicts),
            reasons=_largest_differences(diff.reasons),
            changes=[(change, change_text(change)) for change in diff.transitions],
            images=_example_images(diff.transitions, (before.open(), after.open())),
        )
    )


def _largest_differences(counts: Mapping[str, tuple[int, int]]) -> list[tuple[str, int, int]]:
    """(name, before, after), the largest differences first."""
    rows = [(name, old, new) for name, (old, new) in counts.items()]
    return sorted(rows, key=lambda row: -abs(row[2] - row[1]))


def _example_images(changes: Sequence[Transition], datasets: tuple[CuratedDataset, CuratedDataset]) -> dict[str, bytes]:
    """A small JPEG of the first image of each example, from the thumbnails or, if it was kept, from its shard."""
    examples = [example for change in changes for example in change.examples][:MAX_PAGE_IMAGES]
    found: dict[str, bytes] = {}
    for dataset in datasets:
        missing = {example.sample_id for example in examples} - found.keys()
        found.update(_thumbnails(dataset, missing))
    for example in examples:
        for dataset, location in zip(datasets, (example.before, example.after), strict=True):
            if example.sample_id not in found and location is not None and location.shard is not None:
                data = _first_image(dataset, location)
                small = thumbnail(data, THUMBNAIL_SIDE, DecodeLimits()) if data else None
                if small:
                    found[example.sample_id] = small
    return found


def _thumbnails(dataset: CuratedDataset, sample_ids: set[str]) -> Iterator[tuple[str, bytes]]:
    wanted = pa.array(sorted(sample_ids), pa.string())
    for shard in dataset.shards if sample_ids else ():
        try:
            table = read_thumbnails(dataset, shard, ["sample_id", "slot", "jpeg"])
        except (OSError, pa.ArrowException):
            continue  # the page lacks these images
        chosen = table.filter(pc.and_(pc.is_in(table["sample_id"], wanted), pc.equal(table["slot"], 0)))
        yield from ((row["sample_id"], row["jpeg"]) for row in chosen.to_pylist() if row["jpeg"])


def _first_image(dataset: CuratedDataset, location: RecordLocation) -> bytes | None:
    """The first image of a record; None if it has none, or if its shard is damaged or was not fetched."""
    if location.shard is None or location.offset is None or location.span_bytes is None:
        return None
    try:
        stored = dataset.read(location.shard, location.offset, location.span_bytes)
        return stored.image_bytes(0) if stored.sample.images else None
    except (SampleError, DatasetError):
        return None


def _example_to_json(example: Example) -> dict[str, Any]:
    locations = {name: vars(location) if location else None for name, location in
                 (("before", example.before), ("after", example.after))}  # fmt: skip
    return {"sample_id": example.sample_id, "caption": example.caption, **locations}
