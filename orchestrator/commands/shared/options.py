"""Options that many commands share, and what they stand for: the recipe, the stages, the places things are kept."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clusters.connect import connect
from clusters.profiles import profile_at
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import PlanWishes
from orchestrator.planning.reasons import CodePolicy
from orchestrator.recipe.loading import Kinds, load_recipe
from orchestrator.recipe.suggestions import expectation
from orchestrator.stage import Recipe
from orchestrator.workspace import Workspace

Command = Callable[..., Any]
RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are kept; None: below `.illume/` in the current folder."""

    store: str | None
    database: str | None
    tracking: str | None


def place_options(command: Command) -> Command:
    """`--store`, `--database` and `--tracking`, also from the environment; given on as `places`."""

    @functools.wraps(command)
    def with_places(*, store: str | None, database: str | None, tracking: str | None, **rest: Any) -> Any:
        return command(places=Places(store=store, database=database, tracking=tracking), **rest)

    options = [
        ("--store", "ILLUME_STORE", "Folder or address (s3://bucket/prefix) of the artifacts."),
        ("--database", "ILLUME_DATABASE", "Index database: a file, or postgresql://user@host/name."),
        ("--tracking", "ILLUME_TRACKING", "MLflow tracking address; 'none' for no tracking."),
    ]
    decorated: Command = with_places
    for name, variable, text in reversed(options):
        decorated = click.option(name, envvar=variable, show_envvar=True, help=text)(decorated)
    return decorated


accept_taint_option = click.option(
    "--accept-taint", is_flag=True, help="Go on with models that saw what was taken down."
)


def recipe_options(command: Command) -> Command:
    """The recipe as `recipe` and `overrides`, and what is wanted of it as `wishes`."""

    @functools.wraps(command)
    def with_wishes(
        *,
        force: tuple[str, ...],
        until: tuple[str, ...],
        only: tuple[str, ...],
        code: CodePolicy,
        accept_taint: bool,
        **rest: Any,
    ) -> Any:
        wishes = PlanWishes(force=force, until=until, only=only, code=code, accept_taint=accept_taint)
        return command(wishes=wishes, **rest)

    decorators = [
        click.argument("recipe"),
        click.option("--set", "overrides", multiple=True, metavar="PLACE=VALUE", help="stages.NAME.config.KEY=VALUE"),
        click.option("--force", multiple=True, metavar="STAGE", help="Make it again, and what was made from it."),
        click.option("--until", multiple=True, metavar="STAGE", help="Stop after this stage."),
        click.option("--only", multiple=True, metavar="STAGE", help="Run no other stage; its inputs must exist."),
        click.option(
            "--code",
            type=click.Choice(["warn", "rerun", "fail"]),
            default="warn",
            show_default=True,
            help="What to do where the code of a stage moved under an unchanged version.",
        ),
        accept_taint_option,
    ]
    decorated: Command = with_wishes
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated


cluster_option = click.option(
    "--cluster",
    "profile",
    envvar="ILLUME_CLUSTER",
    show_envvar=True,
    metavar="PLACE",
    help="Where to run: a profile, or http://HEAD:8265 for jobs on a Ray cluster. Default: this machine.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


def stage_kinds() -> Kinds:
    """The kinds that `cli.exit_code` was given, else those of the package `stages`."""
    given: Kinds | None = click.get_current_context().obj
    if given is not None:
        return given
    from stages import STAGE_KINDS  # late: commands that need no recipe work without the stages

    return STAGE_KINDS


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    found = importlib.util.find_spec("stages")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder, "recipes").glob("*.yaml")]
    return {file.stem: file for file in sorted(files)}


def recipe_file(recipe: str) -> Path:
    """The file that a recipe argument names: a path, or the bare name of a built-in recipe.

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


def open_workspace(places: Places, profile: str | None = None) -> Workspace:
    """Open, or make, what the commands work on. A context manager.

    Raises:
        RecipeError: an address or the profile of the cluster cannot be used.
        StoreError, DatabaseError: it cannot be used.
    """
    cluster = connect(profile_at(profile)) if profile else None
    return Workspace.open(places.store, places.database, places.tracking, cluster=cluster)
