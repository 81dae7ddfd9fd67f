"""Tables on terminals of any width: nothing is lost, no line is longer than the terminal."""

import io

import pytest
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.narrow import print_table

RUN = "20250131-081500-abc123"


def table() -> Table:
    found = Table(title="quickstart", box=None, padding=(0, 2, 0, 0))
    for title in ("run", "state", "progress", "", "message"):
        found.add_column(title, no_wrap=title != "message", overflow="fold")
    bar = ProgressBar(total=1.0, completed=0.5, width=20)
    found.add_row(RUN, Text("RUNNING", style="bold"), bar, "unnamed", Text("waits for 8 GPUs since an hour"))
    found.add_row("short", "FAILED", "", "", "")
    return found


def shown(width: int) -> str:
    file = io.StringIO()
    print_table(table(), Console(file=file, width=width, force_terminal=False))
    return file.getvalue()


def test_a_wide_terminal_has_the_table() -> None:
    assert len(shown(120).splitlines()) == 4  # title, heads, two rows


def test_on_40_columns_a_row_becomes_lines() -> None:
    assert shown(40).splitlines() == [
        "quickstart",
        RUN,
        "  state: RUNNING",
        "  unnamed",
        "  message: waits for 8 GPUs since an ",
        "hour",
        "short",
        "  state: FAILED",
    ]


@pytest.mark.parametrize("width", [1, 10, 40, 60, 80])
def test_nothing_is_lost_on_any_width(width: int) -> None:
    text = shown(width)
    assert all(len(line) <= width for line in text.splitlines())
    squeezed = "".join(text.split())
    for word in (RUN, "RUNNING", "FAILED", "unnamed", "since"):
        assert word in squeezed
