"""Facts of a publication that the dataset does not hold, such as its creator, and texts shared by all descriptions."""

import datetime
from dataclasses import dataclass, field

from data_pipelines.audit.summary import AuditSummary
from data_pipelines.publishing.licences import Licence, known_licence

NONE_STATED = "none stated"  # the value in an audit for a licence or language that a record does not state


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Facts given by the publisher; those not given are described as not stated."""

    creator: str = ""
    url: str = ""  # address where the dataset is available
    published: datetime.date = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date())
    version: str = "1.0.0"


def kept_values(summary: AuditSummary, table: str) -> dict[str, int]:
    """The number of kept records by value, most frequent first."""
    counts = {value: cell.rows.get("keep", 0) for value, cell in summary.tables[table].items()}
    return dict(sorted(((value, rows) for value, rows in counts.items() if rows), key=lambda entry: -entry[1]))


def kept_licences(summary: AuditSummary) -> list[Licence]:
    """The licences of kept records that state one."""
    return [known_licence(stated) for stated in kept_values(summary, "license") if stated != NONE_STATED]


def kept_languages(summary: AuditSummary) -> list[str]:
    return [language for language in kept_values(summary, "language") if language != NONE_STATED]


def num_without_licence(summary: AuditSummary) -> int:
    return kept_values(summary, "license").get(NONE_STATED, 0)


def description_paragraph(summary: AuditSummary) -> str:
    """A one-paragraph description of the dataset."""
    kept, total = summary.whole.rows.get("keep", 0), summary.whole.total
    tasks = ", ".join(f"{rows:,} of {task}" for task, rows in kept_values(summary, "task").items())
    return (
        f"Image-text records for training, curated: {kept:,} of {total:,} records are kept ({tasks}). Shards in the "
        "WebDataset layout hold the kept samples; Parquet ledgers hold a row for every record that came in, kept or "
        "not, with its verdict and the reason for it."
    )


def limitations(summary: AuditSummary) -> list[str]:
    """Limitations of the dataset, as sentences."""
    found = [
        "Rules decide, not people: no record was looked at by a person as part of the curation.",
        "Copies are found by equal bytes, equal pixels and perceptual hashes; copies that look alike in meaning only "
        "are not.",
        "Nothing is known about consent of people who are shown, nor about biases of the sources.",
    ]
    if missing := num_without_licence(summary):
        found.append(f"Kept records that state no licence: {missing:,}.")
    unknown = [licence.stated for licence in kept_licences(summary) if licence.spdx is None]
    if unknown:
        found.append("Licences in words that no known licence goes by: " + ", ".join(unknown) + ".")
    if not kept_languages(summary):
        found.append("The language of the texts was not determined.")
    elif missing := kept_values(summary, "language").get(NONE_STATED, 0):
        found.append(f"Kept records whose language is not known: {missing:,}.")
    return found


def personal_data_statement(summary: AuditSummary) -> str:
    dropped = summary.tables["reason"].get("caption_pii")
    number = dropped.total if dropped else 0
    masked = sum(cell.total for value, cell in summary.tables["repairs"].items() if "caption_pii" in value)
    return (
        "Texts are searched for mail addresses, telephone and card numbers where the curation's settings ask for it; "
        f"records dropped for them: {number:,}, with these replaced in them: {masked:,}. "
        "Pictures are not searched for faces, plates or other personal data."
    )
