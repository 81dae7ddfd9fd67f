import pytest

from orchestrator.errors import PluginError
from orchestrator.plugins.recipes import installed_recipes
from tests.orchestrator import test_cli
from tests.orchestrator.plugins import foreign
from tests.orchestrator.plugins.foreign import ENTRY_POINTS, RECIPE, Kit
from tests.orchestrator.test_cli import Illume

kit, illume = foreign.kit, test_cli.illume


def test_the_recipes_of_an_installed_package_are_found_by_name(kit: Kit) -> None:
    assert installed_recipes() == {"yelling": kit.package / "recipes" / "yelling.yaml"}


def test_a_recipe_of_an_installed_package_is_planned_by_its_name(kit: Kit, illume: Illume) -> None:
    assert "yelling              Somebody else's recipe." in illume("recipes").out
    planned = illume("plan", "yelling", "--plugin", "shout_kit.kinds:ALL")
    assert planned.code == 0, planned.err
    assert "yelled" in planned.out


def test_two_recipes_of_one_name_are_refused(kit: Kit) -> None:
    (kit.package / "more").mkdir()
    (kit.package / "more" / "yelling.yaml").write_text(RECIPE)
    kit.install(entry_points=f"{ENTRY_POINTS}more = shout_kit.more\n")
    with pytest.raises(PluginError, match="recipe 'yelling': found two of this name"):
        installed_recipes()


def test_an_entry_point_without_a_package_is_refused(kit: Kit) -> None:
    kit.install(entry_points="[illume.recipes]\nkit = shout_kit.absent\n")
    with pytest.raises(PluginError, match=r"'shout_kit\.absent' of the group 'illume.recipes': found no such package"):
        installed_recipes()
