"""`illume relocate`: a workspace that was moved goes on, and a new tracker is filled from the store alone."""

import sqlite3
from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def mlflow_rows(file: Path, query: str) -> list[str]:
    connection = sqlite3.connect(file)
    try:
        return [str(row[0]) for row in connection.execute(query)]
    finally:
        connection.close()


def test_a_moved_workspace_is_followed_and_a_new_tracker_is_filled(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second place"
    monkeypatch.delenv("ILLUME_TRACKING", raising=False)
    monkeypatch.setenv("ILLUME_HOME", str(first))
    assert illume("run", "words.yaml").code == 0
    runs = mlflow_rows(first / "mlflow.db", "select count(*) from runs")
    first.rename(second)
    monkeypatch.setenv("ILLUME_HOME", str(second))
    told = [line for line in illume("doctor").out.splitlines() if "moved mlflow" in line]
    assert ["illume relocate" in line for line in told] == [True], told
    moved = illume("relocate", "--json").data
    assert {move["kind"] for move in moved["moves"]} == {"store", "jsonl", "openlineage", "mlflow"}
    assert (moved["waiting"], moved["runs"]) == ({}, 1)
    places = mlflow_rows(second / "mlflow.db", "select artifact_location from experiments where name = 'words'")
    assert all("/second%20place/" in place for place in places), places
    assert mlflow_rows(second / "mlflow.db", "select count(*) from runs") == runs
    assert "moved mlflow" not in illume("doctor").out
    deliveries = [line for line in illume("doctor").out.splitlines() if " events wait" in line]
    assert all(str(first) not in line and " 0 events wait" in line for line in deliveries), deliveries
    assert illume("relocate", "--json").data["moves"] == []

    (second / "index.db").unlink()
    (second / "mlflow.db").unlink()
    assert illume("index", "rebuild").code == 0
    assert illume("relocate", "--json").data["waiting"] == {}
    assert mlflow_rows(second / "mlflow.db", "select count(*) from runs") == runs
    names = mlflow_rows(second / "mlflow.db", "select value from tags where key = 'mlflow.runName'")
    assert any(name.startswith("pair") for name in names)
