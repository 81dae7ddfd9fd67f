"""Which destinations of events have moved, and the addresses in a tracker's file."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.history.database.database import Database
from orchestrator.sinks.outbox import Outbox, deliveries
from orchestrator.sinks.relocation import Move, find_moves, follow_moves, local_path, move_addresses

TellStory = Callable[[Database, str], Any]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:////a/mlflow.db", "/a/mlflow.db"),
        ("host7:/a/events.jsonl", "/a/events.jsonl"),
        ("file:///a%20b/store", "/a b/store"),
        ("/a/store", "/a/store"),
        ("http://mlflow:5000", None),
        ("s3://bucket/prefix", None),
    ],
)
def test_addresses_of_this_machine_have_a_path(address: str, path: str | None) -> None:
    assert local_path(address) == (Path(path) if path else None)


class Named:
    """A sink that takes everything."""

    linger_s = 0.0

    def __init__(self, name: str) -> None:
        self.name = name

    def deliver(self, events: object) -> None:
        pass


def test_cursors_follow_what_is_gone_from_its_old_place_and_nothing_else(tmp_path: Path, tell_story: TellStory) -> None:
    database = Database(str(tmp_path / "index.db"))
    tell_story(database, "r1")
    still, new = tmp_path / "still", tmp_path / "new"
    for folder in (still, new):
        folder.mkdir()
    before = [f"store {tmp_path / 'old'}", f"jsonl h:{still}", "mlflow http://a:1"]
    with Outbox(database, [Named(name) for name in before]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(20.0) == {}
    now = [f"store {new}", f"jsonl h:{new}", "mlflow http://b:1"]
    moves = find_moves(database, now)
    assert moves == [Move(kind="store", old=str(tmp_path / "old"), new=str(new))]
    follow_moves(database, moves)
    assert {delivery.sink: delivery.waiting for delivery in deliveries(database)} == {
        f"store {new}": 0,
        f"jsonl h:{still}": 0,
        "mlflow http://a:1": 0,
    }
    database.close()


def test_addresses_in_a_trackers_file_are_replaced_where_the_folder_ends(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    connection = sqlite3.connect(file)
    connection.execute("create table runs (artifact_uri text)")
    values = ["file:///old%20place/store/a", "/old place/store/b", "/old place/store2/c", "s3://bucket/x"]
    connection.executemany("insert into runs values (?)", [(value,) for value in values])
    connection.commit()
    connection.close()
    assert move_addresses(f"sqlite:///{file}", [(Path("/old place/store"), Path("/n/store"))]) == 2
    connection = sqlite3.connect(file)
    found = [row[0] for row in connection.execute("select artifact_uri from runs")]
    connection.close()
    assert found == ["file:///n/store/a", "/n/store/b", "/old place/store2/c", "s3://bucket/x"]
    assert move_addresses("http://server:5000", [(Path("/a"), Path("/b"))]) == 0
