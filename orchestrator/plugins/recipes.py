"""Recipes of installed packages: the YAML files of the packages named by entry points of the group `illume.recipes`."""

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from orchestrator.errors import PluginError

RECIPES_GROUP = "illume.recipes"  # entry points: a package, whose files *.yaml are recipes by their stem


def installed_recipes() -> dict[str, Path]:
    """The recipes of other installed packages, by name.

    Raises: PluginError: a package cannot be found, or two packages have a recipe of one name.
    """
    found: dict[str, Path] = {}
    for point in sorted(entry_points(group=RECIPES_GROUP), key=lambda point: (point.value, point.name)):
        for file in recipe_files(point.value):
            if found.setdefault(file.stem, file) != file:
                raise PluginError(
                    f"recipe {file.stem!r}: found two of this name, {found[file.stem]} and {file}; rename one, or "
                    "uninstall one of the packages"
                )
    return found


def recipe_files(package: str) -> list[Path]:
    """The recipes in the folder of a package. Raises: PluginError: there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(
            f"entry point {package!r} of the group {RECIPES_GROUP!r}: found no such package; expected one with "
            "recipes, *.yaml; repair or uninstall the package that names it"
        )
    return sorted(file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.yaml"))
