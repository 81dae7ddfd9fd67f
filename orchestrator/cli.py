"""The command line `illume`: finds the command, and is the one boundary where errors become messages and exit codes.

Exit codes: 0 done; 1 work failed; 2 nothing ran, fix the input.
"""

import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.errors import EXIT_FAILED, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.recipe.loading import Kinds

REPEAT_S = 60.0  # after which a line that comes again is shown again
_DURATION = re.compile(r"\d+\.\d+ s\b")
BUG_LOG = Path(".illume") / "illume.log"

# name -> (module below `orchestrator.commands`, what `--help` says); a module is imported when its command is used
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("run", "Carry out a recipe; continues what was begun."),
    "plan": ("plan", "Show what would run, what is reused, and why."),
    "recipes": ("plan", "List the built-in recipes."),
    "resume": ("run", "Continue a run with the plan it was started with."),
    "cancel": ("run", "Ask a run to stop at its next commit point."),
    "status": ("status", "List the runs, or show the stages of one."),
    "logs": ("status", "Print what the stages of a run logged."),
    "events": ("status", "Print what happened in a run, one event per line."),
    "explain": ("explain", "Show why a stage is what it is: identity, reasons, changes."),
    "lineage": ("explain", "Show what an artifact was made from, and what was made from it."),
    "diff": ("diff", "Show what differs between two runs: recipe, code, data, figures, time."),
    "audit": ("audit", "Count what went into a dataset and what was dropped; write a page with pictures."),
    "verify": ("verify", "Check committed artifacts against their digests."),
    "gc": ("gc", "List what can be deleted from the store; delete it with --delete."),
    "pin": ("gc", "Keep an artifact whatever its age."),
    "index": ("index", "Rebuild the database from the store."),
    "doctor": ("doctor", "Check this machine, the store, the database and the tracker."),
    "trace": ("trace", "Follow samples and pictures through a run: datasets, tokens, steps, models."),
    "takedown": ("takedown", "Take samples out of data and models: plan, apply, receipt."),
    "generate": ("inference", "Draw pictures for a text with the models of a run."),
    "describe": ("inference", "Describe a picture with the models of a run."),
    "ask": ("inference", "Answer a question about a picture with the models of a run."),
    "edit": ("inference", "Change a picture as told with the models of a run."),
}
# Called by the program itself on a cluster, and not listed.
HIDDEN_COMMANDS: Mapping[str, str] = {"stage-driver": "stage_driver"}


class LateGroup(click.Group):
    """Commands whose modules are imported when they are used, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module_name = COMMANDS[cmd_name][0] if cmd_name in COMMANDS else HIDDEN_COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        module = importlib.import_module(f"orchestrator.commands.{module_name}")
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(module, f"{name}_command")  # by convention, so a table suffices
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in {*COMMANDS, *HIDDEN_COMMANDS}:
            from orchestrator.recipe.suggestions import expectation

            ctx.fail(f"no such command {args[0]!r}; {expectation(args[0], COMMANDS.keys())}")
        return super().resolve_command(ctx, args)


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", is_flag=True, help="Also show what the engine notes along the way.")
@click.version_option(package_name="illume-orchestrator", prog_name="illume")
def cli(verbose: bool) -> None:
    """Durable orchestration of the ILLUME+ recipe: curate, tokenize, train, decode, evaluate, export."""
    handler = TerminalHandler(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class TerminalHandler(logging.Handler):
    """Writes to what is standard error at the time, so that lines appear above a live table and not inside it.

    A line that only says again what was said just before, by an error that is still there, is left out.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._told_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        essence = _DURATION.sub("", line)
        self._told_at = {text: at for text, at in self._told_at.items() if record.created - at < REPEAT_S}
        if essence not in self._told_at:
            self._told_at[essence] = record.created
            click.echo(line, err=True)


def main() -> None:
    """The console script."""
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(arguments: list[str], kinds: "Kinds | None" = None) -> int:
    """Carry out one command line and say how it ended; messages go to standard error.

    `kinds` are the stage kinds that recipes can use; by default those of the package `stages`.
    """
    try:
        result = cli.main(arguments, prog_name="illume", standalone_mode=False, obj=kinds)
        return result if isinstance(result, int) else 0
    except OrchestratorError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return EXIT_FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the one boundary: a mistake of ours becomes a note
        report_bug(error, arguments)
        return EXIT_FAILED


def report_bug(error: Exception, arguments: list[str]) -> None:
    """A short note for the user; the traceback goes to a log file, or to standard error where there is no room."""
    from orchestrator.history.events import mask_text  # late: only when it is needed

    trace = mask_text("".join(traceback.format_exception(error)))
    cause = mask_text((str(error).strip().splitlines() or [""])[0])
    click.echo(f"error: this is a mistake in illume, not in your input: {type(error).__name__}: {cause}", err=True)
    try:
        BUG_LOG.parent.mkdir(exist_ok=True)
        with BUG_LOG.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat()} illume {mask_text(' '.join(arguments))}\n{trace}\n")
        click.echo(f"The traceback is in {BUG_LOG}. Committed work is safe; running again continues it.", err=True)
    except OSError:
        click.echo(trace, err=True)
