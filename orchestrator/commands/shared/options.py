"""Options that several commands share, and the objects made from them: the recipe, the stage kinds, the workspace."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from clusters.connect import connect
from clusters.profiles import profile_at
from orchestrator.actor import set_reason
from orchestrator.commands.shared.completion import complete_run, complete_target, matching
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import OrchestratorError, RecipeError, StoreError
from orchestrator.planning.plan import PlanOptions
from orchestrator.planning.reasons import CodePolicy
from orchestrator.plugins.recipes import installed_recipes
from orchestrator.plugins.table import all_kinds, kinds_of_targets, with_kinds
from orchestrator.recipe.loading import Kinds, load_recipe
from orchestrator.recipe.yaml_subset import parse_yaml, read_text
from orchestrator.stage import Recipe, Resources, RetryPolicy
from orchestrator.workspace import Workspace

Command = Callable[..., Any]
RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Where the store, the database and the tracking data are; None: in the workspace's folder."""

    store: str | None
    database: str | None
    tracking: str | None


def location_options(command: Command) -> Command:
    """Adds `--store`, `--database` and `--tracking`, also read from the environment; passed on as `locations`."""

    @functools.wraps(command)
    def with_locations(*, store: str | None, database: str | None, tracking: str | None, **rest: Any) -> Any:
        return command(locations=Locations(store=store, database=database, tracking=tracking), **rest)

    options = [
        ("--store", "ILLUME_STORE", "Folder or address (s3://bucket/prefix) of the artifacts."),
        ("--database", "ILLUME_DATABASE", "Index database: a file, or postgresql://user@host/name."),
        ("--tracking", "ILLUME_TRACKING", "MLflow tracking address; 'none' for no tracking."),
    ]
    decorated: Command = with_locations
    for name, variable, text in reversed(options):
        decorated = click.option(name, envvar=variable, show_envvar=True, help=text)(decorated)
    return decorated


def _keep_reason(_context: click.Context, _parameter: click.Parameter, reason: str) -> None:
    set_reason(reason)


reason_option = click.option(
    "--reason",
    default="",
    expose_value=False,
    callback=_keep_reason,
    help="Why; recorded with your name beside what this command changes. No personal data.",
)

accept_taint_option = click.option(
    "--accept-taint", is_flag=True, help="Continue with models trained on samples that were taken down."
)

detach_option = click.option(
    "--detach",
    is_flag=True,
    help="Leave stages that are jobs of a cluster running when this process is stopped, by Ctrl-C too.",
)


def complete_recipe(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Recipes by name, and files."""
    # The files first: bash forgets what was before them, and lists them only if no recipe fits.
    try:
        names = known_recipes()
    except RecipeError:  # of a plugin; completion stays silent
        names = builtin_recipes()
    return [CompletionItem(incomplete, type="file"), *matching(names, incomplete)]


def complete_stage_of_recipe(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The stages of the recipe on the command line."""
    try:
        return matching(_stages_of_recipe(ctx), incomplete)
    except RecipeError:
        return []


def _stages_of_recipe(ctx: click.Context) -> dict[str, Any]:
    """The stages as they are written. Raises: RecipeError: the recipe cannot be read."""
    recipe = ctx.params.get("recipe") or next(iter(ctx.args), "")  # an option without its value leaves it in `args`
    file = recipe_file(str(recipe))
    data = parse_yaml(read_text(file), str(file)).data
    stages = data.get("stages") if isinstance(data, dict) else None
    return stages if isinstance(stages, dict) else {}


def complete_override(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The paths that `--set` takes for the recipe on the command line, e.g. `stages.NAME.config.KEY=`."""
    from orchestrator.reference.config_keys import config_keys, walk  # late: only needed here

    try:
        with ctx.scope(cleanup=False):
            kinds = stage_kinds()
        stages = _stages_of_recipe(ctx)
    except OrchestratorError:
        return []
    found: list[CompletionItem] = []
    for name, stage in stages.items():
        kind = kinds.get(str(stage.get("kind"))) if isinstance(stage, dict) else None
        own = {"config": kind.config, "execution": kind.execution} if kind else {}
        sections = {**own, "resources": Resources, "retry": RetryPolicy}
        for section, config_class in sections.items():
            start = f"stages.{name}.{section}."
            if start.startswith(incomplete) or incomplete.startswith(start):
                keys = [key for key in walk(config_keys(config_class)) if not key.keys]
                paths = [(f"{start}{key.path}=", key.comment) for key in keys]
                found += [CompletionItem(path, help=text) for path, text in paths if path.startswith(incomplete)]
    return found


def recipe_options(command: Command) -> Command:
    """Adds the recipe and the options of its plan; passed on as `recipe`, `overrides` and `options`."""

    @functools.wraps(command)
    def with_plan_options(
        *,
        force: tuple[str, ...],
        until: tuple[str, ...],
        only: tuple[str, ...],
        retry_quarantined: bool,
        code: CodePolicy,
        accept_taint: bool,
        **rest: Any,
    ) -> Any:
        options = PlanOptions(
            force=force,
            until=until,
            only=only,
            retry_quarantined=retry_quarantined,
            code=code,
            accept_taint=accept_taint,
        )
        return command(options=options, **rest)

    decorators = [
        click.argument("recipe", shell_complete=complete_recipe),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="PATH=VALUE",
            help="stages.NAME.config.KEY=VALUE",
            shell_complete=complete_override,
        ),
        click.option(
            "--force",
            multiple=True,
            metavar="STAGE",
            help="Make it again, and what was made from it.",
            shell_complete=complete_stage_of_recipe,
        ),
        click.option(
            "--until",
            multiple=True,
            metavar="STAGE",
            help="Stop after this stage.",
            shell_complete=complete_stage_of_recipe,
        ),
        click.option(
            "--only",
            multiple=True,
            metavar="STAGE",
            help="Run no other stage; its inputs must exist.",
            shell_complete=complete_stage_of_recipe,
        ),
        click.option(
            "--retry-quarantined",
            is_flag=True,
            help="Try the quarantined items of existing outputs again: their shards, and what was made from them.",
        ),
        click.option(
            "--code",
            type=click.Choice(["warn", "rerun", "fail"]),
            default="warn",
            show_default=True,
            help="What to do if the code of a stage changed under an unchanged version.",
        ),
        accept_taint_option,
        plugin_option,
    ]
    decorated: Command = with_plan_options
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated


cluster_option = click.option(
    "--cluster",
    "profile",
    envvar="ILLUME_CLUSTER",
    show_envvar=True,
    metavar="PROFILE",
    help="Where to run: a profile, or http://HEAD:8265 for jobs on a Ray cluster. Default: this machine.",
)
run_argument = click.argument("run", metavar="[RUN]", required=False, shell_complete=complete_run)
run_option = click.option(
    "--run",
    metavar="RUN",
    shell_complete=complete_run,
    help="A run, a recipe's name for its newest run, or 'last'. Default: the newest run.",
)
target_argument = click.argument("target", metavar="[RUN[:STAGE]]", required=False, shell_complete=complete_target)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


def examples(*lines: str) -> str:
    """The end of a command's help: command lines to copy, each with what it does after a `#`."""
    commands = [line.partition(" # ") for line in lines]
    width = max(len(command) for command, _, _ in commands)
    shown = [
        f"  illume {command:{width}}  # {text}" if text else f"  illume {command}" for command, _, text in commands
    ]
    return "\b\n" + "\n".join(["Examples:", *shown])


_PLUGINS, _KINDS = f"{__name__}.plugins", f"{__name__}.kinds"  # keys in the context of a command


def _keep_targets(context: click.Context, _parameter: click.Parameter, targets: tuple[str, ...]) -> None:
    context.meta[_PLUGINS] = targets


plugin_option = click.option(
    "--plugin",
    multiple=True,
    metavar="MODULE:NAME",
    expose_value=False,
    is_eager=True,
    callback=_keep_targets,
    help="Also load stage kinds from a module, or from a file: ./file.py:NAME. Installed plugins load by themselves.",
)


def stage_kinds() -> Kinds:
    """All stage kinds that the command can use, by name: built in, of installed packages, and of `--plugin`.

    Raises: PluginError: a plugin cannot be used.
    """
    context = click.get_current_context()
    if _KINDS not in context.meta:
        given: Kinds | None = context.obj  # by `cli.exit_code`, in place of the built-in and the installed ones
        targets = context.meta.get(_PLUGINS, ())
        if given is not None:
            context.meta[_KINDS] = with_kinds(given, kinds_of_targets(targets))
        else:
            from stages import STAGE_KINDS  # late: commands without a recipe do not need the stages

            context.meta[_KINDS] = all_kinds(STAGE_KINDS, targets)
    kinds: Kinds = context.meta[_KINDS]
    return kinds


def known_recipes() -> dict[str, Path]:
    """The built-in recipes and those of installed packages, by name; a built-in one hides another of its name."""
    return {**installed_recipes(), **builtin_recipes()}


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    found = importlib.util.find_spec("stages")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder, "recipes").glob("*.yaml")]
    return {file.stem: file for file in sorted(files)}


def recipe_file(recipe: str) -> Path:
    """The file of a recipe argument: a path, or the bare name of a recipe that is built in or of an installed package.

    Raises:
        RecipeError: neither exists.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    known = known_recipes()
    if recipe in known:
        return known[recipe]
    if path.suffix in RECIPE_SUFFIXES or len(path.parts) > 1:
        raise RecipeError(f"{recipe}: found no such recipe file; `illume recipes` lists the built-in ones")
    raise RecipeError(f"found no recipe {recipe!r}, neither a file nor a known one; {expectation(recipe, known)}")


def read_recipe(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    return load_recipe(recipe_file(recipe), stage_kinds(), overrides)


def open_workspace(
    locations: Locations,
    profile: str | None = None,
    *,
    create: bool = False,
    changes: bool = False,
    needs_store: bool = True,
) -> Workspace:
    """Open the workspace that the commands use. A context manager.

    Only `run` and `index rebuild` create one; elsewhere an absent one looks empty, and nothing is left behind.
    `changes`: the command changes or deletes what runs may use, so it needs to know all runs. Without `needs_store`,
    for commands that show what the database knows, a store that is away or another one is a warning.

    Raises:
        RecipeError: an address or the profile of the cluster cannot be used; or `changes` without an index database.
        StoreError, DatabaseError: the store or the database cannot be used.
    """
    cluster = connect(profile_at(profile)) if profile else None
    workspace = Workspace.open(locations.store, locations.database, locations.tracking, cluster=cluster, create=create)
    try:
        workspace.check_store()
    except StoreError as error:
        if needs_store:
            workspace.close()
            raise
        click.echo(f"warning: {error}", err=True)
    if changes and not workspace.has_index:
        workspace.close()
        raise RecipeError(
            f"found no index database, and without it nothing in {workspace.store.url} is changed; "
            "`illume index rebuild` makes it from the store, ILLUME_HOME and --database name another one"
        )
    return workspace
