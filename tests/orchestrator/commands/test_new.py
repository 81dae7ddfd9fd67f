"""`illume new`: the project plans and runs as it stands; for own data; every key is in its recipe."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from data_pipelines.ingest.config import FOLDER_FORMATS
from orchestrator.cli import exit_code
from orchestrator.commands.new import data_format
from orchestrator.reference.config_keys import config_keys
from stages import STAGE_KINDS
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume
PLUGIN = ("--plugin", "./stage.py:STAGE")


def command(*arguments: str) -> int:
    """The command line with the kinds that are installed."""
    return exit_code(list(arguments))


def test_the_project_is_valid_for_editors_and_has_every_key(illume: Illume, tmp_path: Path) -> None:
    assert command("new", "my project") == 0
    project = tmp_path / "my project"
    text = (project / "recipe.yaml").read_text()
    recipe = yaml.safe_load(text)
    assert recipe["name"] == "my-project"
    schema = json.loads((project / "recipe.schema.json").read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(recipe)] == []
    for kind in ("ingest", "curate"):
        for key in config_keys(STAGE_KINDS[kind].config):
            assert f"{key.name}:" in text
    assert not (project / ".illume").exists()


@pytest.mark.ray
def test_the_project_plans_and_runs_as_it_stands(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("new", "project") == 0
    monkeypatch.chdir(tmp_path / "project")
    assert command("plan", "recipe.yaml", *PLUGIN) == 0
    assert command("run", "recipe.yaml", *PLUGIN) == 0
    capsys.readouterr()
    assert command("show", "last", "--json") == 0
    stages = {stage["stage_id"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["curated"]["headline"] == "kept 22 of 24: 1 blank_image, 1 caption_empty"
    assert stages["sizes"]["metrics"] == {"images": 22.0, "sizes": 1.0}
    assert json.loads(Path(stages["sizes"]["folder"], "sizes.json").read_text()) == {"64x64": 22}


def test_own_data_take_the_place_of_the_examples(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert command("new", "project", "--data", "photos") == 0
    recipe = yaml.safe_load((tmp_path / "project" / "recipe.yaml").read_text())
    assert recipe["stages"]["ingested"]["config"]["paths"] == [str(tmp_path / "photos")]
    assert not (tmp_path / "project" / "data").exists()


def test_data_that_are_not_there_are_refused_before_anything_is_written(illume: Illume, tmp_path: Path) -> None:
    answer = illume("new", "project", "--data", "photoz")
    assert (answer.code, answer.err) == (2, f"error: --data: found no file or folder '{tmp_path / 'photoz'}'\n")
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.png", "a.txt"], FOLDER_FORMATS[0]),
        (["a.png", "b/c.jpg"], FOLDER_FORMATS[1]),
        (["a.png", "records.jsonl"], "auto"),
        (["00.tar"], "auto"),
    ],
)
def test_the_format_follows_from_the_files(illume: Illume, tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    assert data_format(tmp_path / "mine") == expected


def test_a_folder_with_files_is_left_alone(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes.txt").write_text("mine")
    answer = illume("new", "project")
    assert (answer.code, answer.out) == (2, "")
    assert "found files there, expected a new or an empty folder" in answer.err
    assert [file.name for file in (tmp_path / "project").iterdir()] == ["notes.txt"]
