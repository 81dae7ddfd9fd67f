"""Describes a curated dataset as a Hugging Face dataset card: YAML that the Hub reads, then Markdown.

Source: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md for the keys of the YAML.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_pipelines.audit.summary import TITLES, AuditSummary, Cell, bytes_text, printable
from data_pipelines.captions.languages import UNDETERMINED
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.publishing.publication import (
    NONE_STATED,
    Publication,
    description_paragraph,
    kept_languages,
    kept_licences,
    kept_values,
    limitations,
    personal_data_statement,
)

MAX_ROWS = 30
TABLES = ("reason", "source", "license", "language", "task", "split", "format", "side", "aspect")
_TASKS = {  # our tasks -> task categories of the Hub
    "understanding": ["image-to-text", "visual-question-answering"],
    "generation": ["text-to-image"],
    "editing": ["image-to-image"],
    "text": ["text-generation"],
}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B",
          "10B<n<100B", "100B<n<1T", "n>1T")  # fmt: skip


def dataset_card(folder: Path, summary: AuditSummary, publication: Publication) -> str:
    """The dataset card, as the text of a README.md in the folder of the dataset. Raises: DatasetError."""
    front = yaml.safe_dump(card_fields(summary, ledger_sizes(folder)), sort_keys=False, allow_unicode=True)
    opening = [f"# {_cell(summary.name)}", description_paragraph(summary)]
    facts = [f"- Version {_cell(publication.version)}, described on {publication.published.isoformat()}"]
    facts.append(f"- Made by: {_cell(publication.creator) if publication.creator else 'not stated'}")
    facts += [f"- To be had at: {_cell(publication.url)}"] if publication.url else []
    parts = [
        *opening,
        "\n".join(facts),
        "## What came in and what is kept",
        _verdicts(summary),
        *(f"### {TITLES[name]}\n\n{_table(name, summary)}" for name in TABLES if summary.tables[name]),
        "## Files",
        _FILES,
        "## Opening it",
        OPENING,
        "## Personal data",
        personal_data_statement(summary),
        "## Limits, and what is not known",
        "\n".join(f"- {_cell(sentence)}" for sentence in limitations(summary)),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


_FILES = """\
- `shards/*.tar`: WebDataset. Each kept sample is a JSON member `<sample_id>.json` (conversation, task, split, source,
  licence, pictures) and after it its pictures, byte for byte as they came.
- `ledger/*.parquet`: a row for every record that came in, kept or not, with its verdict, reason, hashes and, for kept
  ones, the tar and the bytes that hold it.
- `dataset.json`: the list of shards.

The Hub's one split "train" is the whole ledger. Which split a sample is in stands in its JSON and in the ledger."""


OPENING = """\
With Hugging Face's datasets, in its folder; one repository has one kind of files there, which are the ledgers, so the
tars are named:

```python
from datasets import load_dataset

ledger = load_dataset(".", "ledger")["train"]
samples = load_dataset("webdataset", data_files={"train": "shards/*.tar"}, streaming=True)["train"]
```

With pyarrow:

```python
import pyarrow.parquet as pq

kept = pq.read_table("ledger", columns=["sample_id", "caption", "shard"], filters=[("verdict", "=", "keep")])
```

With pandas:

```python
import pandas

ledger = pandas.read_parquet("ledger")
reasons = ledger.groupby(["verdict", "reason"], dropna=False).size()
```

With DuckDB:

```python
import duckdb

reasons = duckdb.sql("SELECT verdict, reason, count(*) AS records FROM 'ledger/*.parquet' GROUP BY ALL ORDER BY ALL")
```

The images of a kept sample are in its tar, next to its JSON:

```python
import tarfile

with tarfile.open(f"shards/{kept['shard'][0]}.tar") as shard:
    members = [name for name in shard.getnames() if name.startswith(kept["sample_id"][0].as_py())]
```"""


@dataclass(frozen=True, kw_only=True)
class LedgerSizes:
    """Bytes of all ledgers."""

    files: int
    uncompressed: int


def ledger_sizes(folder: Path) -> LedgerSizes:
    """From the footers of the ledgers. Raises: DatasetError: a ledger is missing or damaged."""
    files = uncompressed = 0
    for shard in CuratedDataset(folder).shards:
        path = folder / "ledger" / f"{shard}.parquet"
        try:
            metadata = pq.read_metadata(path)
            files += path.stat().st_size
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error
        uncompressed += sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return LedgerSizes(files=files, uncompressed=uncompressed)


def card_fields(summary: AuditSummary, sizes: LedgerSizes) -> dict[str, Any]:
    """The YAML header. Unknown fields are omitted, except for the licence, which is then "unknown".

    All configurations of a repository are loaded by one builder of `datasets`, that of the first one's files
    (`LocalDatasetModuleFactory.get_module` of datasets 5.2). Tars and Parquet need two, so only ledgers are named.
    """
    split = {"name": "train", "num_bytes": sizes.uncompressed, "num_examples": summary.whole.total}
    kept = summary.whole.rows.get("keep", 0)
    tasks = [category for task in kept_values(summary, "task") for category in _TASKS.get(task, ())]
    languages = [code for code in kept_languages(summary) if re.fullmatch("[a-z]{2,3}", code) and code != UNDETERMINED]
    return {
        "pretty_name": printable(summary.name),
        "license": _licences(summary),
        **({"language": languages} if languages else {}),
        "size_categories": [size_category(kept)],
        **({"task_categories": list(dict.fromkeys(tasks))} if tasks else {}),
        "tags": ["webdataset", "image-text", "illume"],
        "configs": [
            {"config_name": "ledger", "data_files": [{"split": "train", "path": "ledger/*.parquet"}], "default": True},
        ],
        "dataset_info": [
            {
                "config_name": "ledger",
                "splits": [split],
                "download_size": sizes.files,
                "dataset_size": sizes.uncompressed,
            },
        ],
    }


def size_category(num_samples: int) -> str:
    """The Hub's size category of a number of samples; each is ten times the one before."""
    return _SIZES[min(max(0, len(str(num_samples)) - 3), len(_SIZES) - 1)]


def _licences(summary: AuditSummary) -> list[str]:
    found = list(dict.fromkeys(licence.hugging_face for licence in kept_licences(summary)))
    return found + (["unknown"] if NONE_STATED in kept_values(summary, "license") or not found else [])


def _verdicts(summary: AuditSummary) -> str:
    lines = ["| verdict | records | share | bytes of first images |", "|---|---:|---:|---:|"]
    for verdict in VERDICTS:
        rows, num_bytes = summary.whole.rows.get(verdict, 0), summary.whole.bytes.get(verdict, 0)
        lines.append(f"| {verdict} | {rows:,} | {summary.share(verdict):.1%} | {bytes_text(num_bytes)} |")
    return "\n".join(lines)


def _table(name: str, summary: AuditSummary) -> str:
    """Records by value: kept and all; for reasons, which kept records do not have, only all."""
    cells: Mapping[str, Cell] = summary.tables[name]
    is_reason = name == "reason"
    lines = ["| | records |" if is_reason else "| | kept | of |", "|---|---:|" if is_reason else "|---|---:|---:|"]
    for value, cell in list(cells.items())[:MAX_ROWS]:
        counts = f"{cell.total:,}" if is_reason else f"{cell.rows.get('keep', 0):,} | {cell.total:,}"
        lines.append(f"| {_cell(value)} | {counts} |")
    if len(cells) > MAX_ROWS:
        lines.append(f"| and {len(cells) - MAX_ROWS:,} more | |{'' if is_reason else ' |'}")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Foreign text escaped so that Markdown and HTML render it literally."""
    return re.sub(r"([\\`*_\[\]<>|#&!])", r"\\\1", " ".join(printable(text).split()))
