"""`illume index rebuild`: the database is rebuilt from the store."""

from pathlib import Path

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def test_the_index_is_rebuilt_from_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    run = newest(illume)["run_id"]
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    assert illume("status").out.startswith("no runs yet")
    assert illume("index", "rebuild", "--json").data["runs"] == 1
    assert newest(illume)["run_id"] == run
