"""Follows a store, a workspace or a tracker that has moved: cursors of deliveries, and addresses in MLflow's file.

Rule: an address is taken for an old one of the same thing only if nothing is there any more. The identity of the store
is checked by whoever opens the workspace, so another address of a store is the same store.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, delete, inspect, select, text, update

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import outbox

SQLITE = "sqlite:///"
# Columns of MLflow's tables that hold addresses; MLflow has no call that changes them.
MLFLOW_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass(frozen=True, kw_only=True)
class Move:
    """A destination of events that is at another address now."""

    kind: str  # of the sink: store, jsonl, openlineage, mlflow
    old: str
    new: str


def find_moves(database: Database, names: Sequence[str]) -> list[Move]:
    """What has moved since events were delivered. `names`: of the sinks of now."""
    used = database.read(lambda connection: list(connection.execute(select(outbox.c.sink).distinct()).scalars()))
    moves = []
    for name in names:
        kind, _, new = name.partition(" ")
        before = [old for other in used if other not in names for old in _address_of(other, kind) if _is_gone(old)]
        if len(before) == 1 and name not in used and _is_there(new):
            moves.append(Move(kind=kind, old=before[0], new=new))
    return moves


def follow_moves(database: Database, moves: Sequence[Move]) -> None:
    """Let the cursors of deliveries have the names of now."""

    def work(connection: Connection) -> None:
        for move in moves:
            old, new = f"{move.kind} {move.old}", f"{move.kind} {move.new}"
            known = select(outbox.c.run_id).where(outbox.c.sink == new)
            connection.execute(delete(outbox).where(outbox.c.sink == old, outbox.c.run_id.in_(known)))
            connection.execute(update(outbox).where(outbox.c.sink == old).values(sink=new, problem=""))

    database.write(work)


def move_addresses(tracker: str, places: Sequence[tuple[Path, Path]]) -> int:
    """Replace the beginnings of addresses in MLflow's database file; returns the number of changed values.

    `places`: (old, new) folders. Nothing is changed where the tracker is a server.
    """
    file = local_path(tracker) if tracker.startswith(SQLITE) else None
    if file is None or not file.is_file():
        return 0
    engine = create_engine(URL.create("sqlite", database=str(file)))
    changed = 0
    try:
        known = {
            table: {str(found["name"]) for found in inspect(engine).get_columns(table)} for table in _tables(engine)
        }
        with engine.begin() as connection:
            for table, column in MLFLOW_ADDRESSES:
                for old, new in _beginnings(places) if column in known.get(table, ()) else ():
                    begins = f"{column} = :old or substr({column}, 1, length(:old) + 1) = :old || '/'"
                    change = f"update {table} set {column} = :new || substr({column}, length(:old) + 1) where {begins}"
                    changed += connection.execute(text(change), {"old": old, "new": new}).rowcount
    finally:
        engine.dispose()
    return changed


def _tables(engine: Engine) -> list[str]:
    return [table for table in inspect(engine).get_table_names() if table in dict(MLFLOW_ADDRESSES)]


def _beginnings(places: Sequence[tuple[Path, Path]]) -> Iterator[tuple[str, str]]:
    """Each old folder and its new one, as paths and as file addresses."""
    for old, new in places:
        yield str(old), str(new)
        yield old.as_uri(), new.as_uri()


def _address_of(name: str, kind: str) -> Iterator[str]:
    if name.partition(" ")[0] == kind:
        yield name.partition(" ")[2]


def local_path(address: str) -> Path | None:
    """The path of an address of a sink on this machine: `HOST:/path`, `sqlite:////path`, `file:///path`, `/path`."""
    if address.startswith(SQLITE):
        return Path(unquote(address.removeprefix(SQLITE)))
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in address:
        return None
    host, colon, path = address.partition(":")
    return Path(path) if colon and "/" not in host else Path(address)


def _is_gone(address: str) -> bool:
    path = local_path(address)
    return path is not None and not path.exists()


def _is_there(address: str) -> bool:
    path = local_path(address)
    return path is None or path.exists()
