"""A comparison of two curated datasets for people and scripts: text, JSON, and a part of an HTML page with images.

All text comes from outside and is escaped; images are small JPEGs inside the page.
"""

import base64
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.audit.diff import DatasetDiff, Example, RecordLocation, Transition
from data_pipelines.audit.samples import THUMBNAIL_SIDE
from data_pipelines.audit.summary import printable
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail

MAX_CAPTION_CHARS = 140
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


def dataset_diff_html(diff: DatasetDiff, before: Path, after: Path) -> str:
    """A part of a page in the style of the audit's; `before` and `after` are the folders that images come from."""
    tiles = [
        (f"{diff.rows[1]:,}", f"records, {diff.rows[0]:,} before"),
        (f"{diff.verdicts.get(KEPT, (0, 0))[1]:,}", f"kept, {diff.verdicts.get(KEPT, (0, 0))[0]:,} before"),
        (f"{diff.added:,}", "added"),
        (f"{diff.removed:,}", "removed"),
        (f"{diff.changed:,}", "changed verdicts"),
    ]
    tile_html = "".join(f'<div class="tile"><b>{number}</b>{_text(label)}</div>' for number, label in tiles)
    images = _example_images(diff.transitions, (CuratedDataset(before), CuratedDataset(after)))
    groups = "".join(_group(change, images) for change in diff.transitions)
    equal_shards = f"{diff.equal_shards:,} of {diff.shards[1]:,} shards have the same ledger in both."
    return (
        f'<div class="tiles">{tile_html}</div><p class="soft">{equal_shards}</p>'
        f'<div class="tables"><div>{_counts_table("verdict", diff.verdicts.items())}</div>'
        f"<div>{_counts_table('reason', diff.reasons.items())}</div></div>{groups}"
    )


def _text(value: object) -> str:
    return html.escape(printable(str(value)), quote=True)


def _counts_table(title: str, counts: Any) -> str:
    rows = ""
    for name, (old, new) in sorted(counts, key=lambda item: -abs(item[1][1] - item[1][0])):
        difference = f"{new - old:+,}" if new != old else ""
        rows += f"<tr><td>{_text(name)}</td><td>{old:,}</td><td>{new:,}</td><td>{difference}</td></tr>"
    head = f"<tr><th>{title}</th><th>before</th><th>after</th><th>difference</th></tr>"
    return f"<table>{head}{rows}</table>" if rows else f'<p class="soft">no {title}</p>'


def _group(change: Transition, images: dict[str, bytes]) -> str:
    figures = "".join(_figure(example, images.get(example.sample_id)) for example in change.examples)
    return f'<h3>{_text(change_text(change))}: {change.records:,}</h3><div class="images">{figures}</div>'


def _figure(example: Example, jpeg: bytes | None) -> str:
    location = example.after or example.before
    caption = " ".join(example.caption.split())[:MAX_CAPTION_CHARS]
    source = f"{location.source_file}, row {location.source_row}" if location else ""
    image = '<span class="none">no image</span>'
    if jpeg:
        image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    return (
        f"<figure>{image}<figcaption>{_text(caption)}<br>{_text(source)}<br>"
        f"<code>{_text(example.sample_id[:12])}</code></figcaption></figure>"
    )


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
        path = dataset.folder / "thumbnails" / f"{shard}.parquet"
        try:
            table = pq.read_table(path, columns=["sample_id", "slot", "jpeg"], use_threads=False)
        except (OSError, pa.ArrowException):
            continue  # the page lacks these images; `illume verify` reports the damage
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
