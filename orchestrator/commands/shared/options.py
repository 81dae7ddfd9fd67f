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
from orchestrator.commands.shared.completion import complete_run, complete_target, matching
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import PlanOptions
from orchestrator.planning.reasons import CodePolicy
from orchestrator.recipe.loading import Kinds, load_recipe
from orchestrator.recipe.yaml_subset import parse_yaml, read_text
from orchestrator.stage import Recipe
from orchestrator.suggestions import expectation
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
    return [CompletionItem(incomplete, type="file"), *matching(builtin_recipes(), incomplete)]


def complete_stage_of_recipe(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The stages of the recipe on the command line."""
    recipe = ctx.params.get("recipe") or next(iter(ctx.args), "")  # an option without its value leaves it in `args`
    try:
        file = recipe_file(str(recipe))
        data = parse_yaml(read_text(file), str(file)).data
    except RecipeError:
        return []
    stages = data.get("stages") if isinstance(data, dict) else None
    return matching(stages if isinstance(stages, dict) else (), incomplete)


def recipe_options(command: Command) -> Command:
    """Adds the recipe and the options of its plan; passed on as `recipe`, `overrides` and `options`."""

    @functools.wraps(command)
    def with_plan_options(
        *,
        force: tuple[str, ...],
        until: tuple[str, ...],
        only: tuple[str, ...],
        code: CodePolicy,
        accept_taint: bool,
        **rest: Any,
    ) -> Any:
        options = PlanOptions(force=force, until=until, only=only, code=code, accept_taint=accept_taint)
        return command(options=options, **rest)

    decorators = [
        click.argument("recipe", shell_complete=complete_recipe),
        click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="stages.NAME.config.KEY=VALUE"),
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
            "--code",
            type=click.Choice(["warn", "rerun", "fail"]),
            default="warn",
            show_default=True,
            help="What to do if the code of a stage changed under an unchanged version.",
        ),
        accept_taint_option,
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


def stage_kinds() -> Kinds:
    """The kinds passed to `cli.exit_code`; by default those of the package `stages`."""
    given: Kinds | None = click.get_current_context().obj
    if given is not None:
        return given
    from stages import STAGE_KINDS  # late: commands without a recipe do not need the stages

    return STAGE_KINDS


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    found = importlib.util.find_spec("stages")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder, "recipes").glob("*.yaml")]
    return {file.stem: file for file in sorted(files)}


def recipe_file(recipe: str) -> Path:
    """The file of a recipe argument: a path, or the bare name of a built-in recipe.

    Raises:
        RecipeError: neither exists.
    """
    path, builtin = Path(recipe), builtin_recipes()
    if path.is_file():
        return path
    if recipe in builtin:
        return builtin[recipe]
    if path.suffix in RECIPE_SUFFIXES or len(path.parts) > 1:
        raise RecipeError(f"{recipe}: found no such recipe file; `illume recipes` lists the built-in ones")
    raise RecipeError(f"found no recipe {recipe!r}, neither a file nor a built-in one; {expectation(recipe, builtin)}")


def read_recipe(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    return load_recipe(recipe_file(recipe), stage_kinds(), overrides)


def open_workspace(
    locations: Locations, profile: str | None = None, *, create: bool = False, changes: bool = False
) -> Workspace:
    """Open the workspace that the commands use. A context manager.

    Only `run` and `index rebuild` create one; elsewhere an absent one looks empty, and nothing is left behind.
    `changes`: the command changes or deletes what runs may use, so it needs to know all runs.

    Raises:
        RecipeError: an address or the profile of the cluster cannot be used; or `changes` without an index database.
        StoreError, DatabaseError: the store or the database cannot be used.
    """
    cluster = connect(profile_at(profile)) if profile else None
    workspace = Workspace.open(locations.store, locations.database, locations.tracking, cluster=cluster, create=create)
    if changes and not workspace.has_index:
        workspace.close()
        raise RecipeError(
            f"found no index database, and without it nothing in {workspace.store.url} is changed; "
            "`illume index rebuild` makes it from the store, ILLUME_HOME and --database name another one"
        )
    return workspace
