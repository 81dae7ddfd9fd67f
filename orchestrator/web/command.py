"""`illume serve`: pages, JSON API, event stream and metrics, in one process."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.shared.numbers import ABOVE_ZERO
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    location_options,
    open_workspace,
    plugin_option,
    stage_kinds,
)
from orchestrator.scheduler.budgets import BudgetWatcher
from orchestrator.scheduler.drivers import Drivers
from orchestrator.scheduler.idling import IdleWatcher
from orchestrator.scheduler.loop import Scheduler
from orchestrator.scheduler.notices import EventWatcher, Notices, apprise_of, log_notice
from orchestrator.scheduler.schedules import ScheduleWatcher
from orchestrator.workspace import workspace_root

FOLDER, QUEUE_FOLDER = "web", "queue"  # below the workspace's

if TYPE_CHECKING:
    from orchestrator.web.settings import Background


@click.command(
    "serve",
    epilog=examples(
        "serve",
        "serve --host 0.0.0.0 --token-file tokens --public-url https://illume.example.org",
        "serve --scheduler # also runs what `illume submit` has queued",
        "serve --new-token alice:operator # a token, and the line of the file for it",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8400, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Who may sign in: lines `NAME ROLE SHA256-OF-TOKEN`; roles are viewer, operator and admin.",
)
@click.option("--trusted-proxy", default="", metavar="ADDRESS", help="The proxy in front, which signs users in.")
@click.option(
    "--user-header", default="X-Forwarded-User", show_default=True, help="In which the proxy says who the user is."
)
@click.option("--public-url", default="", metavar="URL", help="How people reach it: https://HOST, for links.")
@click.option("--new-token", metavar="NAME:ROLE", help="Print a new token and the line of the file for it, and exit.")
@click.option("--scheduler", "is_scheduler", is_flag=True, help="Also run what is in the queue; several servers may.")
@click.option(
    "--max-runs",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Runs that this server drives at one time.",
)
@click.option(
    "--notify",
    "notify_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --scheduler: a file with addresses of apprise, one a line, that hear of failures, budgets and more.",
)
@click.option(
    "--notify-waits-h",
    type=ABOVE_ZERO,
    default=4.0,
    show_default=True,
    help="Hours after which people hear of a stage that waits.",
)
@click.option("--stop-idle", is_flag=True, help="With --scheduler: cancel trainings that mostly wait for data.")
@location_options
@plugin_option
def serve_command(
    host: str,
    port: int,
    token_file: Path | None,
    trusted_proxy: str,
    user_header: str,
    public_url: str,
    new_token: str | None,
    is_scheduler: bool,
    max_runs: int,
    notify_file: Path | None,
    notify_waits_h: float,
    stop_idle: bool,
    locations: Locations,
) -> None:
    """Show runs, data and events as pages, over the store and the database. Stop it with Ctrl-C: nothing is lost.

    With --scheduler it also runs the queue; without it, it starts nothing. On 127.0.0.1 nobody signs in. On any other
    address it needs --token-file, or --trusted-proxy; put TLS in front.
    """
    # Late: a server is loaded only here.
    from orchestrator.web.server import serve
    from orchestrator.web.settings import Background, Settings
    from orchestrator.web.sign_in.tokens import new_token as make_token

    if new_token is not None:
        name, _, role = new_token.partition(":")
        token, line = make_token(name, role)
        click.echo(token)
        click.echo(f"line for the file of tokens: {line}", err=True)
        return
    logging.getLogger("orchestrator.web").setLevel(logging.INFO)
    background: tuple[Background, ...] = ()
    if is_scheduler:
        background = (scheduler_of(locations, max_runs, notify_file, notify_waits_h, stop_idle=stop_idle),)
    settings = Settings(
        open=lambda: open_workspace(locations, needs_store=False),
        kinds=stage_kinds(),
        folder=workspace_root() / FOLDER,
        arguments=arguments_of(locations),
        host=host,
        port=port,
        token_file=token_file,
        trusted_proxy=trusted_proxy,
        user_header=user_header,
        public_url=public_url.rstrip("/"),
        background=background,
    )
    serve(settings, on_ready=lambda address: click.echo(f"illume is at {address}"))


def scheduler_of(
    locations: Locations, max_runs: int, notify_file: Path | None, notify_waits_h: float, *, stop_idle: bool
) -> "Background":
    """The scheduler as work beside the pages. Raises: RecipeError: the file of addresses cannot be used."""
    from orchestrator.web.settings import Background

    logging.getLogger("orchestrator.scheduler").setLevel(logging.INFO)
    notices = Notices(send=log_notice if notify_file is None else apprise_of(notify_file))
    scheduler = Scheduler(
        open=lambda: open_workspace(locations, create=True),
        kinds=stage_kinds(),
        drivers=Drivers(folder=workspace_root() / QUEUE_FOLDER, arguments=arguments_of(locations)),
        watchers=(
            ScheduleWatcher(kinds=stage_kinds(), notify=notices.notify),
            BudgetWatcher(notify=notices.notify),
            IdleWatcher(notify=notices.notify, stops=stop_idle),
            EventWatcher(notices=notices, waits_longer_s=notify_waits_h * 3600),
        ),
        max_runs=max_runs,
    )
    return Background(name="scheduler", run=scheduler.run, problem=scheduler.problem, note=scheduler.note)


def arguments_of(locations: Locations) -> tuple[str, ...]:
    """The options that lead another command to the same store and database."""
    given = {"--store": locations.store, "--database": locations.database, "--tracking": locations.tracking}
    return tuple(word for name, value in given.items() if value for word in (name, value))
