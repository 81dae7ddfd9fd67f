"""Writes an HTML page about a curated dataset that opens offline: counts, histograms, drift, images and captions.

Its size is bounded, whatever the dataset's: tables are cut, and images are omitted once they take too much room. What
is shown is decided here; how, in `templates/audit.html`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.audit.drift import DRIFT_TITLES, LITTLE, MUCH, Drift
from data_pipelines.audit.markup import ImageBudget, chart, page_environment
from data_pipelines.audit.origin import Origin
from data_pipelines.audit.samples import SPECIAL_REASONS, Cluster, PageSamples, choose_samples
from data_pipelines.audit.summary import TITLES, AuditSummary
from data_pipelines.datasets.reader import CuratedDataset

VERDICT_NAMES = {"keep": "kept", "drop": "dropped", "duplicate": "duplicate", "near_duplicate": "near-duplicate",
                 "mirrored": "mirrored"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Images of a sample next to each other, with its caption; None for one that cannot be shown."""

    jpegs: tuple[bytes | None, ...]
    caption: str
    sample_id: str
    style: str = ""  # a class of `page.css`


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Images, then texts with a note each; either may be empty."""

    figures: Sequence[Figure] = ()
    texts: Sequence[tuple[str, str]] = ()


def write_audit_page(
    folder: Path,
    target: Path,
    summary: AuditSummary,
    drift: Drift | None = None,
    *,
    thumbnails: Path | None = None,
    origin: Origin | None = None,
) -> None:
    """Write the page about the dataset in `folder`, whose counts are in `summary`, to `target`.

    `origin`: who made the dataset and how, where that is known.

    `thumbnails`: folder that `derive_thumbnails` wrote to, for images of records that were not kept.

    Raises: DatasetError if a ledger or the thumbnails cannot be read.
    """
    samples = choose_samples(CuratedDataset(folder, thumbnails=thumbnails), drift.samples.shown if drift else ())
    charts = [chart(name, histogram) for name, histogram in summary.histograms.items()]
    page = page_environment().get_template("audit.html")
    text = page.render(
        summary=summary,
        drift=drift,
        origin=origin or Origin(),
        languages={"und": "und (undetermined)"},
        charts=[drawn for drawn in charts if drawn],
        sheets=_sheets(samples),
        budget=ImageBudget(),
        verdict_names=VERDICT_NAMES,
        titles=TITLES,
        drift_titles=DRIFT_TITLES,
        little=LITTLE,
        much=MUCH,
    )
    target.write_text(text, encoding="utf-8")


def _sheets(samples: PageSamples) -> dict[str, Any]:
    """The sheets of each section that has images or captions, by its name in the template."""
    return {
        "added": _kept(samples.added, samples),
        "random": _kept(samples.random, samples),
        "clusters": [
            (cluster.num_copies, cluster.num_copies - len(cluster.copies), _cluster(cluster, samples))
            for cluster in samples.clusters
        ],
        "special": {reason: _special(reason, samples) for reason in SPECIAL_REASONS},
        "groups": [
            (verdict, reason, Sheet(figures=[_beside_original(row, samples) for row in rows]))
            for (verdict, reason), rows in samples.groups.items()
            if reason not in SPECIAL_REASONS
        ],
        "captions": [
            (title, Sheet(texts=[(_text(row), row["reason"] or row["task"] or "") for row in rows]))
            for title, rows in samples.captions.items()
            if rows
        ],
    }


def _kept(rows: Sequence[Mapping[str, Any]], samples: PageSamples) -> Sheet:
    """Kept samples of a ledger; of those without an image, their texts."""
    images = ((row, samples.images.get((row["sample_id"], 0))) for row in rows)
    return Sheet(
        figures=[_figure(row, jpeg) for row, jpeg in images if jpeg is not None or row["task"] != "text"],
        texts=[(_text(row), "text only") for row in rows if row["task"] == "text"],
    )


def _cluster(cluster: Cluster, samples: PageSamples) -> Sheet:
    """The kept image, then its copies."""
    slot = cluster.copies[0]["slot"] if cluster.copies else 0
    original = samples.images.get((cluster.kept_id, slot))
    figures = [Figure(jpegs=(original,), caption="kept", sample_id=cluster.kept_id, style="first")]
    for row in cluster.copies:
        why = f"{VERDICT_NAMES.get(row['verdict'], row['verdict'])}, {row['reason']}"
        figures.append(Figure(jpegs=(row["jpeg"],), caption=why, sample_id=row["sample_id"]))
    return Sheet(figures=figures)


def _special(reason: str, samples: PageSamples) -> Sheet:
    """Samples of a reason that has a section of its own, each with its source."""
    rows = samples.special.get(reason, ())
    return Sheet(
        figures=[_figure(row, row["jpeg"]) for row in _thumbnails(reason, samples)] if rows else (),
        texts=[(_text(row), f"{row['source_file']}, row {row['source_row']}: {row['detail']}") for row in rows],
    )


def _thumbnails(reason: str, samples: PageSamples) -> Iterator[Mapping[str, Any]]:
    for (_, why), rows in samples.groups.items():
        yield from (row for row in rows if why == reason and row["slot"] == 0)


def _beside_original(row: Mapping[str, Any], samples: PageSamples) -> Figure:
    """A thumbnail; that of a copy next to the kept image."""
    if not row["duplicate_of"]:
        return _figure(row, row["jpeg"])
    return _figure(row, samples.images.get((row["duplicate_of"], row["slot"])), row["jpeg"], style="pair")


def _figure(row: Mapping[str, Any], *jpegs: bytes | None, style: str = "") -> Figure:
    return Figure(jpegs=jpegs, caption=row["caption"] or "", sample_id=row["sample_id"], style=style)


def _text(row: Mapping[str, Any]) -> str:
    return row["caption"] or row["sample_id"][:12]
