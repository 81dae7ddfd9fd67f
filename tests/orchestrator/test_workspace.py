"""Where the workspace is: found from the working folder upwards; made by `run` and `index rebuild` only."""

from pathlib import Path

import pytest

from orchestrator.workspace import Workspace, workspace_root
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def test_the_nearest_workspace_above_the_working_folder_is_used(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    illume("run", "words.yaml")
    run = newest(illume)["run_id"]
    below = tmp_path / "notes" / "today"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert newest(illume)["run_id"] == run
    assert illume("run", "../../words.yaml").out.startswith("nothing to run")
    assert [path.name for path in below.iterdir()] == []
    (below.parent / ".illume").mkdir()  # nearer, and empty
    assert illume("status").out.startswith("no runs yet")
    monkeypatch.setenv("ILLUME_HOME", str(tmp_path / ".illume"))
    assert newest(illume)["run_id"] == run


def test_a_file_of_that_name_is_not_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".illume").write_text("")
    (tmp_path / ".illume").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert workspace_root() == tmp_path / ".illume"


@pytest.mark.parametrize(
    "command",
    [
        "plan words.yaml",
        "recipes",
        "status",
        "status absent",
        "events",
        "logs",
        "explain",
        "lineage words:said",
        "diff words words",
        "audit words:said",
        "verify",
        "verify --heal",
        "gc",
        "gc --delete",
        "pin",
        "doctor",
        "trace absent",
        "takedown plan absent",
        "takedown list",
        "resume",
        "cancel",
        "run absent.yaml",
    ],
)
def test_other_commands_leave_nothing_behind(illume: Illume, tmp_path: Path, command: str) -> None:
    answer = illume(*command.split())
    assert "bug" not in answer.err
    assert not (tmp_path / ".illume").exists()


def test_a_store_is_changed_only_with_its_index(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    assert "1 are in" in illume("status").out, "the store still has the run"
    refused = illume("gc", "--delete", "--older-than-h", "0")
    assert (refused.code, "`illume index rebuild` makes it" in refused.err) == (2, True)
    assert not list((tmp_path / ".illume").glob("index.db*"))
    illume("index", "rebuild")
    assert illume("gc", "--delete", "--older-than-h", "0").code == 0


def test_the_stand_in_of_an_absent_workspace_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Workspace.open(tracking_url="none", create=False) as workspace:
        stand_in = workspace.root
        assert (workspace.has_index, stand_in.is_dir()) == (False, True)
    assert not stand_in.exists()
    assert list(tmp_path.iterdir()) == []
