"""Completion of runs and stages in the shell; the support of bash, which breaks words at colons.

Nothing here may print or fail: what cannot be read completes to nothing. In bash `RUN:STAGE` arrives in parts; they are
joined again, and only what follows the colon is answered.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.history.database.database import Database

MAX_RUNS = 50
LOCK_WAIT_S = 1.0  # a person waits


class ColonBashComplete(BashComplete):
    """Bash, whose words end at colons."""

    name = "bash"
    # After the path of a setting its value follows, without a space.
    source_template = BashComplete.source_template.replace(
        "    return 0", "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n\n    return 0"
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        typed, position = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        words = joined_at_colons(typed[1 : position + 1])
        is_new_word = position >= len(typed) and not (words and words[-1].endswith(":"))
        return (words, "") if is_new_word or not words else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        _, incomplete = self.get_completion_args()
        answered = len(incomplete.rpartition(":")[0]) + 1 if ":" in incomplete else 0
        return f"{item.type},{str(item.value)[answered:]}"


def register_shells() -> None:
    """Make click use the classes of this file; called in the process that completes."""
    add_completion_class(ColonBashComplete)


def joined_at_colons(words: list[str]) -> list[str]:
    """`["last", ":", "cur"]` as `["last:cur"]`."""
    joined: list[str] = []
    for word in words:
        is_continued = bool(joined) and (word.startswith(":") or joined[-1].endswith(":"))
        joined[-1:] = [joined[-1] + word] if is_continued else [*joined[-1:], word]
    return joined


def complete_run(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`last`, recipes that were run, and ids of the newest runs."""
    return [CompletionItem(name, help=text) for name, text in _runs(ctx).items() if name.startswith(incomplete)]


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs; and the stages of the run that is named, or of the only one that fits."""
    run, colon, _ = incomplete.partition(":")
    runs = [] if colon else complete_run(ctx, param, incomplete)
    if not colon and len(runs) == 1:
        run = runs[0].value
    stages = _stages_of_run(ctx, run) if colon or len(runs) == 1 else []
    return [*runs, *matching([f"{run}:{stage}" for stage in stages], incomplete)]


def complete_stage_of_run(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The stages of the run on the command line, or of the newest."""
    run = str(ctx.params.get("target") or ctx.params.get("run") or "last").partition(":")[0]
    return matching(_stages_of_run(ctx, run), incomplete)


def matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The names that continue what was typed."""
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _runs(ctx: click.Context) -> dict[str, str]:
    """What names a run, with a text for shells that show one."""
    from orchestrator.history.run_status import list_runs

    try:
        with _database(ctx) as database:
            known = list_runs(database, limit=MAX_RUNS) if database else []
    except OrchestratorError:
        return {}
    recipes = {run.recipe: "its newest run" for run in known}
    last = {"last": "the newest run"} if known else {}
    return {**last, **recipes, **{run.run_id: f"{run.recipe}, {run.state}" for run in known}}


def _stages_of_run(ctx: click.Context, run: str) -> list[str]:
    from orchestrator.commands.shared.targets import find_target

    try:
        with _database(ctx) as database:
            return [stage.stage_id for stage in find_target(database, run).stages] if database else []
    except OrchestratorError:
        return []


@contextmanager
def _database(ctx: click.Context) -> "Iterator[Database | None]":
    """The index database of the workspace, or the one that is named on the command line; None: there is none."""
    from orchestrator.history.database.database import Database, database_exists
    from orchestrator.workspace import workspace_root

    url = str(ctx.params.get("database") or os.environ.get("ILLUME_DATABASE") or workspace_root() / "index.db")
    if not database_exists(url):
        yield None
        return
    database = Database(url, lock_wait_s=LOCK_WAIT_S, reconnect_s=0.0)
    try:
        yield database
    finally:
        database.close()
