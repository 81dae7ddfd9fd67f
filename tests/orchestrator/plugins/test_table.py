"""All kinds by name, and the plugins that a plan keeps: from the command line to a resumed run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import EXIT_UNUSABLE, PluginError
from orchestrator.plugins.loading import load_target
from orchestrator.plugins.table import PluginRecord, all_kinds, kinds_of_plan, plugins_to_json, with_kinds
from tests.orchestrator import test_cli
from tests.orchestrator.plugins import foreign
from tests.orchestrator.plugins.foreign import KINDS, RECIPE, Kit
from tests.orchestrator.plugins.test_loading import FILE
from tests.orchestrator.test_cli import KINDS as BUILT_IN
from tests.orchestrator.test_cli import Illume

RECORD = PluginRecord(target="shout_kit.kinds:ALL", distribution="shout-kit", version="1.0", kinds=("yell",))
kit, illume = foreign.kit, test_cli.illume


def test_built_in_installed_and_named_kinds_are_one_table(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE.replace('"yell"', '"mine"'))
    kinds = all_kinds(BUILT_IN, [f"{tmp_path}/mine.py:YELL", "shout_kit.kinds:YELL"])
    assert set(kinds) == {*BUILT_IN, "yell", "mine"}


def test_two_kinds_of_one_name_are_refused(kit: Kit) -> None:
    (kind,) = load_target("shout_kit.kinds:YELL")
    with pytest.raises(PluginError, match=r"'say': found two of this name, built in and of plugin shout-kit 1\.0"):
        with_kinds(BUILT_IN, [replace(kind, name="say")])


def test_a_plan_loads_its_plugins_again(kit: Kit) -> None:
    kinds = load_target("shout_kit.kinds:ALL")
    assert plugins_to_json([*BUILT_IN.values(), *kinds]) == [
        {"target": "shout_kit.kinds:ALL", "distribution": "shout-kit", "version": "1.0", "kinds": ["yell"]}
    ]
    assert set(kinds_of_plan(BUILT_IN, [RECORD])) == {*BUILT_IN, "yell"}


def test_a_plugin_of_another_version_is_refused_unless_the_plan_is_only_read(kit: Kit) -> None:
    kit.install(version="1.1")
    with pytest.raises(
        PluginError, match=r"made with plugin shout-kit 1\.0 .* is of plugin shout-kit 1\.1 .*shout-kit==1\.0"
    ):
        kinds_of_plan(BUILT_IN, [RECORD])
    assert "yell" in kinds_of_plan(BUILT_IN, [RECORD], any_version=True)


def test_a_missing_plugin_is_refused_with_the_next_step(kit: Kit) -> None:
    foreign.forget_modules("shout_kit")
    kit.package.rename(kit.site / "gone")
    with pytest.raises(PluginError, match=r"shout-kit 1\.0 .*missing on .* pip install shout-kit==1\.0"):
        kinds_of_plan(BUILT_IN, [RECORD], any_version=True)


def test_a_file_is_named_once_and_a_run_keeps_it(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "yelling.yaml").write_text(RECIPE)
    without = illume("run", "yelling.yaml")
    assert without.code == EXIT_UNUSABLE
    assert "found 'yell' (text); no such stage kind" in without.err
    assert illume("run", "yelling.yaml", "--plugin", "./mine.py:YELL").code == 0
    started = json.loads(illume("events", "--json").out.splitlines()[0])
    assert [plugin["kinds"] for plugin in started["fields"]["plugins"]] == [["yell"]]


def test_resume_loads_the_file_that_the_run_was_started_with(illume: Illume, tmp_path: Path) -> None:
    failing = FILE.replace(
        "    words = ", '    if __import__("os").path.exists("fault"):\n        raise OSError(5, "no")\n    words = '
    )
    (tmp_path / "fault").write_text("")
    (tmp_path / "mine.py").write_text(failing)
    (tmp_path / "yelling.yaml").write_text(RECIPE.replace("times: 2}", "times: 2}, retry: {attempts: 1}"))
    assert illume("run", "yelling.yaml", "--plugin", "./mine.py:YELL").code != 0
    (tmp_path / "fault").unlink()
    (tmp_path / "mine.py").write_text(failing + "\n")
    refused = illume("resume")
    assert refused.code == EXIT_UNUSABLE
    assert "make a new plan with `illume run`" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    (tmp_path / "mine.py").write_text(failing)
    assert illume("resume").code == 0


def test_a_changed_plugin_makes_a_new_run_instead_of_continuing_one(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE.replace("    words = ", "    raise KeyError(1)\n    words = "))
    (tmp_path / "yelling.yaml").write_text(RECIPE)
    assert illume("run", "yelling.yaml", "--plugin", "mine.py:YELL").code == 1
    (tmp_path / "mine.py").write_text(FILE)
    repaired = illume("run", "yelling.yaml", "--plugin", "mine.py:YELL")
    assert repaired.code == 0, repaired.err
    assert "continuing" not in repaired.err


def test_a_broken_plugin_begins_nothing(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(KINDS)
    (tmp_path / "yelling.yaml").write_text(RECIPE)
    answer = illume("run", "yelling.yaml", "--plugin", "mine.py:YELL")
    assert answer.code == EXIT_UNUSABLE
    assert "ModuleNotFoundError: No module named 'shout_kit'" in answer.err
    assert not (tmp_path / ".illume").exists()
