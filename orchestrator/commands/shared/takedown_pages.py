"""The pages of a takedown: what would go, for whoever applies it; and the receipt, for whoever asked for it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.actor import current_actor
from orchestrator.artifacts.takedowns import TaintedArtifact, Takedown
from orchestrator.commands.shared.formatting import bytes_text
from orchestrator.commands.shared.thumbnails import records_folders
from orchestrator.recipe.loading import Kinds
from orchestrator.times import short_time
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from data_pipelines.provenance.match_groups import MatchGroup
    from data_pipelines.provenance.sample_search import Match
    from stages.provenance.receipt import Receipt
    from stages.provenance.takedown import TakedownPlan

MAX_SHOWN = 200  # images of a group
MAX_LINES = 100  # of a list
FOLDED_LINES = 12  # longer lists of a receipt are folded


@dataclass(frozen=True, kw_only=True)
class ShownMatch:
    match: "Match"
    dataset: str
    jpeg: bytes | None
    caption: str

    @property
    def verdict(self) -> str:
        from data_pipelines.audit.page import VERDICT_NAMES

        return VERDICT_NAMES.get(self.match.verdict, self.match.verdict)

    @property
    def alt(self) -> str:
        return self.caption or f"{self.verdict} record {self.match.sample_id[:12]} from {self.match.source_file}"


@dataclass(frozen=True, kw_only=True)
class ShownGroup:
    why: str
    title: str
    short: str
    matches: Sequence[Any]
    num_kept: int
    shown: Sequence[ShownMatch]

    @property
    def hidden(self) -> int:
        return len(self.matches) - len(self.shown)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A list of a receipt's page."""

    title: str
    text: str
    lines: Sequence[str]


def write_plan_page(workspace: Workspace, kinds: Kinds, takedown_plan: "TakedownPlan", target: Path) -> None:
    """Write the page about a takedown that was planned: the images that would go, grouped by why."""
    from data_pipelines.audit.markup import ImageBudget, page_environment
    from data_pipelines.provenance.match_groups import match_groups

    takedown = takedown_plan.takedown
    groups = match_groups(takedown_plan.matches)
    images, captions = _images_and_captions(workspace, kinds, takedown_plan, groups)
    page = page_environment(__package__).get_template("takedown_plan.html")
    text = page.render(
        takedown=takedown,
        facts=[*_facts(takedown), ("planned by", current_actor().name), ("planned at", _now())],
        groups=[_shown(group, images, captions) for group in groups],
        budget=ImageBudget(),
        lists=[
            ("Not found; forbidden from now on nevertheless", takedown_plan.unanswered[:MAX_LINES]),
            ("Artifacts that would be deleted", _artifact_lines(takedown, is_kept=False)[:MAX_LINES]),
            (
                "Models that would be kept and marked",
                _artifact_lines(takedown, is_kept=True)[:MAX_LINES],
            ),
            ("Shown to be clean, kept", takedown_plan.cleared[:MAX_LINES]),
        ],
    )
    target.write_text(text, encoding="utf-8")


def write_receipt_page(receipt: "Receipt", target: Path, *, statement: str) -> None:
    """Write the receipt for the person who asked. `statement`: where the statement that programs check is."""
    from data_pipelines.audit.markup import page_environment

    takedown = receipt.takedown
    page = page_environment(__package__).get_template("receipt.html")
    text = page.render(
        takedown=takedown,
        is_complete=not receipt.open_points,
        facts=[
            *_facts(takedown),
            ("took effect", _date(takedown.created)),
            ("applied by", takedown.by or "not recorded"),
            ("this receipt", f"{_now()}, by {current_actor().name}, after the whole store was searched again"),
        ],
        sections=[section for section in _sections(receipt) if section.lines],
        max_lines=MAX_LINES,
        folded=FOLDED_LINES,
        statement=statement,
    )
    target.write_text(text, encoding="utf-8")


def _sections(receipt: "Receipt") -> list[Section]:
    takedown, old = receipt.takedown, receipt.old.versions
    successors = [f"{new.stage} of {new.recipe} ({new.kind} {new.fingerprint[:12]})" for new in receipt.successors]
    digests = sorted(mark for marks in takedown.content.values() for mark in marks)
    found = {
        "Still to be done": ("The takedown is complete once these are done.", receipt.open_points),
        "What was asked for": (
            "Records and images, known by their digests (SHA-256) and, for similar images, by their perceptual hashes. "
            "They are refused whenever data are read.",
            digests,
        ),
        "Not used any more, and being deleted" if receipt.files else "Deleted": (
            "Datasets and other files that held it.",
            _artifact_lines(takedown, is_kept=False),
        ),
        "Old versions that the bucket keeps": (
            "They can be read by whoever may read versions of the bucket, until they are deleted one by one or by a "
            "lifecycle rule.",
            [f"{version.key}, version {version.version_id}, {bytes_text(version.bytes)}" for version in old],
        ),
        "Models that had learned from it": (
            "They are marked, and no new work uses them. A single record cannot be taken out of a trained model; they "
            "are replaced by those below, once these exist.",
            _artifact_lines(takedown, is_kept=True),
        ),
        "Made again without it": ("These replace what was deleted or marked.", successors),
        "Outside of this system": (
            "Where the content was read from. Deleting it there is up to whoever owns these files.",
            takedown.outside,
        ),
    }
    return [Section(title=title, text=text, lines=lines) for title, (text, lines) in found.items()]


def _facts(takedown: Takedown) -> list[tuple[str, str]]:
    return [("name", takedown.id), ("note", takedown.note or "none"), ("due", takedown.due or "no day was given")]


def _now() -> str:
    return short_time(time.time())


def _date(text: str) -> str:
    return short_time(datetime.fromisoformat(text).timestamp())


def _artifact_lines(takedown: Takedown, *, is_kept: bool) -> list[str]:
    chosen = [artifact for artifact in takedown.tainted if artifact.is_kept == is_kept]
    return [_artifact_line(artifact) for artifact in chosen]


def _artifact_line(artifact: TaintedArtifact) -> str:
    identity = f"{artifact.kind} {artifact.fingerprint[:12]}"
    return f"{artifact.stage_id} ({identity}, {bytes_text(artifact.bytes)}): {artifact.why}"


def _shown(
    group: "MatchGroup", images: Mapping[tuple[str, str], bytes], captions: Mapping[tuple[str, str], str]
) -> ShownGroup:
    shown = [
        ShownMatch(match=match, dataset=dataset, jpeg=images.get(key), caption=captions.get(key, ""))
        for dataset, match in group.matches[:MAX_SHOWN]
        for key in ((dataset, match.sample_id),)
    ]
    return ShownGroup(
        why=group.why,
        title=group.title,
        short=group.short,
        matches=group.matches,
        num_kept=group.num_kept,
        shown=shown,
    )


def _images_and_captions(
    workspace: Workspace, kinds: Kinds, takedown_plan: "TakedownPlan", groups: "Sequence[MatchGroup]"
) -> tuple[dict[tuple[str, str], bytes], dict[tuple[str, str], str]]:
    """JPEGs and captions of what is shown, by dataset and sample id."""
    from data_pipelines.datasets.reader import is_table
    from data_pipelines.provenance.match_images import match_captions, match_images

    wanted: dict[str, list[Match]] = {}
    for group in groups:
        for dataset, match in group.matches[:MAX_SHOWN]:
            wanted.setdefault(dataset, []).append(match)
    found: dict[tuple[str, str], bytes] = {}
    captions: dict[tuple[str, str], str] = {}
    for dataset, matches in wanted.items():
        opened = workspace.artifacts.open(takedown_plan.datasets[dataset], only=is_table)
        records = records_folders(workspace.artifacts, kinds, opened.manifest, {match.ledger for match in matches})
        images = match_images(opened.path, records, matches)
        found |= {(dataset, sample_id): jpeg for sample_id, jpeg in images.items()}
        words = match_captions(opened.path, matches)
        captions |= {(dataset, sample_id): caption for sample_id, caption in words.items()}
    return found, captions
