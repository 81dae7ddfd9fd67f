"""`illume verify`: damage is found and healed."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, actions

illume = test_cli.illume


def test_verify_finds_damage_and_heals_it(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    assert "3 artifacts checked, nothing is damaged" in illume("verify").out
    damaged = next(file for file in (tmp_path / ".illume" / "store").rglob("words.txt") if file.read_text() == "hello")
    damaged.chmod(0o644)
    damaged.write_text("hallo")
    found = illume("verify")
    assert (found.code, "1 damaged" in found.out) == (1, True)
    assert illume("verify", "words:said", "--heal").code == 0
    assert actions(illume) == {"said": "skip", "loud": "reuse", "pair": "reuse"}


def damage_all(store: Path) -> None:
    for file in store.rglob("artifacts/*/*/*/attempts/*/data/*"):
        file.chmod(0o644)
        file.write_text("damaged")


def retractions(store: Path) -> list[str]:
    return [file.name for file in store.rglob("*.RETRACTED")]


def test_much_damage_is_not_healed_without_asking(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    store = tmp_path / ".illume" / "store"
    damage_all(store)
    refused = illume("verify", "--heal")
    assert refused.code == 2
    assert "3 of 3 artifacts look damaged" in refused.err
    assert "--yes" in refused.err
    assert retractions(store) == []
    assert illume("verify", "--heal", "--yes").code == 0
    assert len(retractions(store)) >= 3


@pytest.mark.parametrize("folder", ["artifacts", "shards", "artifacts/say"])
@pytest.mark.parametrize("command", ["run words.yaml", "plan words.yaml", "verify --heal --yes", "gc --delete"])
def test_a_folder_that_is_not_mounted_is_an_error_and_changes_nothing(
    illume: Illume, tmp_path: Path, folder: str, command: str
) -> None:
    illume("run", "words.yaml")
    store = tmp_path / ".illume" / "store"
    (store / folder).rename(tmp_path / "away")
    (store / folder).mkdir()
    before = sorted(path for path in store.rglob("*"))
    refused = illume(*command.split())
    assert (refused.code, "Is it mounted?" in refused.err) == (75, True)
    assert sorted(path for path in store.rglob("*")) == before
    (store / folder).rmdir()
    (tmp_path / "away").rename(store / folder)
    assert set(actions(illume).values()) <= {"reuse", "skip"}


def test_a_store_that_is_not_mounted_is_not_an_empty_one(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    (tmp_path / ".illume" / "store").rename(tmp_path / "away")
    refused = illume("run", "words.yaml")
    assert (refused.code, "mounted" in refused.err) == (75, True)
    assert not (tmp_path / ".illume" / "store").exists()


def test_what_the_database_knows_is_shown_without_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    (tmp_path / ".illume" / "store").rename(tmp_path / "away")
    for command in ("status", "events --json", "logs last"):
        shown = illume(*command.split())
        assert (shown.code, "warning:" in shown.err, "mounted" in shown.err) == (0, True, True), command
    assert not (tmp_path / ".illume" / "store").exists()


def test_a_database_of_another_store_is_refused(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    illume("run", "words.yaml", "--store", str(tmp_path / "other"), "--database", str(tmp_path / "other.db"))
    refused = illume("run", "words.yaml", "--store", str(tmp_path / "other"))
    assert (refused.code, "belongs to" in refused.err) == (2, True)


def test_rebuilding_remembers_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    identity = json.loads((tmp_path / ".illume" / "store" / "STORE.json").read_text())["store_id"]
    (tmp_path / ".illume" / "index.db").unlink()
    illume("index", "rebuild")
    with sqlite3.connect(tmp_path / ".illume" / "index.db") as database:
        assert database.execute("select store_id from known_stores").fetchall() == [(identity,)]
