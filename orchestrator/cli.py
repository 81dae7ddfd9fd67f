"""The command line `illume`: dispatches to the commands, and turns errors into messages and exit codes.

The only boundary that catches all errors. Exit codes: 0 done; 1 work failed; 2 nothing ran, fix the input; for 75 and
85 see `errors.py`.
"""

import importlib
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from orchestrator.actor import set_command
from orchestrator.errors import EXIT_FAILED, EXIT_UNUSABLE, OrchestratorError, StoppedError, declared_failure
from orchestrator.logs.lines import STAMP, LineFormatter
from orchestrator.logs.output import uncaptured
from orchestrator.redaction.masking import mask_text
from orchestrator.redaction.streams import masked_terminal
from orchestrator.times import short_time

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from orchestrator.recipe.loading import Kinds

REPEAT_S = 60.0  # a repeated log line is suppressed for this time
_DURATION = re.compile(r"\d+\.\d+ s\b")
COMPLETION_VARIABLE = "_ILLUME_COMPLETE"  # a name that click derives from the program's
BUG_LOG = "illume.log"  # in the workspace's folder
DATA_ADVICE = "This is an error in the data, not a bug in illume: repair or replace what the message names."
VERSION_HELP = "Show the version and the commit, and exit."

WEB = "orchestrator.web"  # a front door of its own
# group -> command -> (module below `orchestrator.commands`, or its whole name, and text of `--help`); imported when the
# command is used
GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Start": {
        "new": ("new", "Start a project: a commented recipe for your own data, and a stage of your own."),
        "doctor": ("doctor", "Check this machine, the store, the database and the tracker."),
        "recipes": ("plan", "List the recipes that are known by name, or print one."),
        "kinds": ("kinds", "Show the stage kinds: inputs, output, config, metrics."),
        "schema": ("kinds", "Write the JSON Schema of recipes, for editors."),
        "completion": ("completion", "Print the script that completes commands, runs and stages in a shell."),
    },
    "Run": {
        "plan": ("plan", "Show what would run, what is reused, and why."),
        "curate": ("curate", "Ingest and curate folders and files that are named once."),
        "estimate": ("estimate", "Say whether trainings fit their machines, how long they take, what they cost."),
        "run": ("run", "Run a recipe; continues an interrupted run."),
        "resume": ("run", "Continue a run with the plan it was started with."),
        "cancel": ("run", "Ask a run to stop at its next commit point."),
        "drain-node": ("drain_node", "Leave a node before it is taken away: trainings save, work goes elsewhere."),
    },
    "Queue": {
        "submit": ("submit", "Queue a recipe, for a server (`serve --scheduler`) to run."),
        "requeue": ("submit", "Queue a run that has ended: go on with it, or plan its stages anew."),
        "queue": ("queue", "Show what waits, for what, and when it is expected to start."),
        "priority": ("queue", "Change the priority of a run in the queue."),
        "schedule": ("schedule", "Submit a recipe by a cron line, for new files, or for a pinned artifact."),
        "budget": ("budget", "Set what may be spent in a month, by a user or by everybody."),
        "approve": ("queue", "Let a stage start that waits for the word of a person."),
    },
    "Look": {
        "status": ("status", "List the runs, or show the stages of one."),
        "show": ("show", "Show what came out of a run or a stage, where it is, and what to type next."),
        "path": ("show", "Print the folder of a stage's files."),
        "logs": ("logs", "Print the logs of a run's stages."),
        "events": ("logs", "Print the events of a run, one per line."),
        "explain": ("explain", "Show the identity of a stage, why it ran or was reused, and what changed."),
        "lineage": ("explain", "Show what an artifact was made from, and what was made from it."),
        "diff": ("diff", "Show what differs between two runs: recipe, code, data, metrics, time."),
    },
    "Data": {
        "audit": ("audit", "Count what a dataset contains and what was dropped; write a page with images."),
        "samples": ("samples", "Show what a step of a training learned from."),
        "trace": ("trace", "Follow samples and images through a run: datasets, tokens, steps, models."),
        "takedown": ("takedown", "Remove samples from data and models: plan, apply, receipt."),
    },
    "Model": {
        "generate": ("inference", "Generate images for a text with the models of a run."),
        "describe": ("inference", "Describe an image with the models of a run."),
        "ask": ("inference", "Answer a question about an image with the models of a run."),
        "edit": ("inference", "Edit an image by an instruction with the models of a run."),
    },
    "Store": {
        "verify": ("verify", "Check committed artifacts against their digests."),
        "gc": ("gc", "List what can be deleted from the store; delete it with --delete."),
        "pin": ("gc", "Protect an artifact from `gc`."),
        "du": ("du", "Show the space that stages, runs and checkpoints take."),
        "index": ("index", "Rebuild the database from the store."),
        "relocate": ("relocate", "Follow a store or a tracker that has moved; fill a tracker that is new."),
    },
    "Service": {
        "serve": (f"{WEB}.command", "Show runs, data and events as pages; a JSON API; a service for teams."),
    },
}
COMMANDS: Mapping[str, tuple[str, str]] = {
    name: entry for commands in GROUPS.values() for name, entry in commands.items()
}
# Called by the program itself on a cluster; not listed in `--help`.
HIDDEN_COMMANDS: Mapping[str, str] = {"stage-driver": "stage_driver"}


class LateGroup(click.Group):
    """Imports a command's module when the command is used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module_name = COMMANDS[cmd_name][0] if cmd_name in COMMANDS else HIDDEN_COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        path = module_name if "." in module_name else f"orchestrator.commands.{module_name}"
        module = importlib.import_module(path)
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(
            module, f"{name}_command"
        )  # the name is a convention, so that the table suffices
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for group, commands in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name.ljust(width), text) for name, (_module, text) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem[Any]"]:
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        own = click.Command.shell_complete(self, ctx, incomplete)  # the group's would import every command
        return [*(CompletionItem(name, help=COMMANDS[name][1]) for name in names), *own]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in {*COMMANDS, *HIDDEN_COMMANDS}:
            from orchestrator.documents.suggestions import expectation

            ctx.fail(f"no such command {args[0]!r}; {expectation(args[0], COMMANDS.keys())}")
        return super().resolve_command(ctx, args)


def _print_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from orchestrator.installation.version import version_text

        click.echo(f"illume {version_text()}")
        context.exit()


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", is_flag=True, help="Also show informational log lines.")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help=VERSION_HELP)
def cli(verbose: bool) -> None:
    """Durable orchestration of the ILLUME+ recipe: curate, tokenize, train, decode, evaluate, export."""
    handler = TerminalHandler(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(LineFormatter(with_time=not sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class TerminalHandler(logging.Handler):
    """Writes to the current standard error, so that lines appear above a live table and not inside it.

    A line that repeats one shown in the last `REPEAT_S`, except for its durations, is suppressed.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._shown_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        message_key = _DURATION.sub("", STAMP.sub("", line))
        self._shown_at = {text: at for text, at in self._shown_at.items() if record.created - at < REPEAT_S}
        if message_key not in self._shown_at:
            self._shown_at[message_key] = record.created
            with uncaptured():
                click.echo(line, err=True)


def main() -> None:
    """The console script."""
    if COMPLETION_VARIABLE in os.environ:  # a shell asks what may follow, see `illume completion`
        importlib.import_module("orchestrator.commands.shared.completion").register_shells()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, _stop)
    sys.exit(exit_code(sys.argv[1:]))


def _stop(number: int, _frame: FrameType | None) -> None:
    """The handler until a command sets its own."""
    raise StoppedError(f"stopped by {signal.Signals(number).name}")


def exit_code(arguments: list[str], kinds: "Kinds | None" = None) -> int:
    """Run one command line and return its exit code; messages go to standard error.

    `kinds`: the stage kinds that recipes can use; by default those of the package `stages`.
    """
    with masked_terminal():
        return _exit_code(arguments, kinds)


def _exit_code(arguments: list[str], kinds: "Kinds | None") -> int:
    set_command(["illume", *arguments])
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
    except Exception as error:  # noqa: BLE001 - the one boundary: a bug becomes a note
        if declared_failure(error) == "data":
            click.echo(f"error: {error}\n{DATA_ADVICE}", err=True)
            return EXIT_UNUSABLE
        report_bug(error, arguments)
        return EXIT_FAILED


def report_bug(error: Exception, arguments: list[str]) -> None:
    """Print a short note; the traceback goes to a log file of the workspace, or else to one for temporary files."""
    trace = mask_text("".join(traceback.format_exception(error)))
    cause = mask_text((str(error).strip().splitlines() or [""])[0])
    click.echo(f"error: this is a bug in illume, not in your input: {type(error).__name__}: {cause}", err=True)
    try:
        from orchestrator.workspace import workspace_root

        root = workspace_root()
        log_file = root / BUG_LOG if root.is_dir() else Path(tempfile.mkdtemp(prefix="illume-"), BUG_LOG)
        with log_file.open("a") as log:
            log.write(f"{short_time(time.time())} illume {mask_text(' '.join(arguments))}\n{trace}\n")
        click.echo(f"The traceback is in {log_file}. Committed work is safe; running again continues it.", err=True)
    except (OSError, ImportError):
        click.echo(trace, err=True)
