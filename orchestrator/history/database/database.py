"""The index database: opening it, transactions, and error messages with advice.

Rule: every access is one function in one transaction that is safe to repeat, so a broken connection is retried.
"""

import importlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.artifact import JSON
from orchestrator.backends.mounts import file_system_of
from orchestrator.errors import DatabaseError
from orchestrator.history.database.file_system import FileSystemOf, check_local
from orchestrator.history.database.migrations import bring_up_to_date
from orchestrator.installation.extras import require_extra
from orchestrator.redaction.masking import mask_text, remember_secret

# Before any thread is started. While another thread imports it, as MLflow does, SQLAlchemy cannot bind the value of an
# enumeration: `AttributeError: partially initialized module` in whatever thread asks the database then.
importlib.import_module("sqlalchemy.orm")

T = TypeVar("T")

LOCK_WAIT_S = 30.0  # how long a transaction waits for the lock of another one
INSTEAD = (  # of SQLite on a network file system
    "`--database /local/disk/index.db`, or ILLUME_HOME on one; for several machines PostgreSQL: "
    "`--database postgresql://USER:PASSWORD@HOST/NAME`"
)
RECONNECT_S = 40.0  # how long a lost PostgreSQL server is retried: as long as a driver's lease allows
MAX_CONNECTIONS = 32  # beyond the pooled ones; one for each thread of a driver that is busy at the same time
_READ_ONLY = "illume_read_only"

log = logging.getLogger(__name__)


class Database:
    """One SQLite file or PostgreSQL database. Thread-safe; cannot be sent to other processes."""

    def __init__(
        self,
        url: str,
        *,
        lock_wait_s: float = LOCK_WAIT_S,
        reconnect_s: float = RECONNECT_S,
        file_system_of: FileSystemOf = file_system_of,
    ) -> None:
        """`url`: a path, `sqlite:///path` or `postgresql://user:password@host/name`; brings its tables up to date.

        Raises:
            DatabaseError: it cannot be opened, is damaged, or has the tables of a newer version of illume.
            UnfitDatabaseError: it is a file of SQLite on a network file system.
            MissingExtraError: PostgreSQL is asked for and its driver is not installed.
        """
        parsed = _parse(url)
        self.address = _address(parsed)  # for messages
        self._lock_wait_s = lock_wait_s
        self._reconnect_s = reconnect_s if parsed.get_backend_name() == "postgresql" else 0.0
        self._waits_on: Callable[[], bool] = lambda: False  # asked beyond `reconnect_s`
        if parsed.get_backend_name() == "postgresql":
            require_extra("postgresql")
        else:
            check_local(Path(str(parsed.database)), "database", INSTEAD, file_system_of)
        self._file = Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None
        self._engine = _engine(parsed, lock_wait_s)
        self._reader = self._engine.execution_options(**{_READ_ONLY: True})  # with the same connections
        self._transact(lambda found: bring_up_to_date(found, self.address), read_only=False, patience_s=0.0)
        self._identity = _identity(self._file)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction; on SQLite it holds the write lock from its start."""
        return self._transact(work, read_only=False, patience_s=self._reconnect_s)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent view of the database; never waits for writers."""
        return self._transact(work, read_only=True, patience_s=self._reconnect_s)

    @contextmanager
    def waiting_longer(self, waits_on: Callable[[], bool]) -> Iterator[None]:
        """Meanwhile, wait for a lost PostgreSQL server beyond `reconnect_s`, as long as `waits_on` returns True."""
        before, self._waits_on = self._waits_on, waits_on
        try:
            yield
        finally:
            self._waits_on = before

    def was_replaced(self) -> bool:
        """Whether the file at its address is gone, or another one by now; this object still reads and writes the old.

        Asked by what keeps a database open for long, which then opens it again.
        """
        return _identity(self._file) != self._identity

    def close(self) -> None:
        self._engine.dispose()

    def _transact(self, work: Callable[[Connection], T], *, read_only: bool, patience_s: float) -> T:
        began = time.monotonic()
        wait_s, reported = 0.1, ""
        while True:
            try:
                with (self._reader if read_only else self._engine).begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                # SQLite refuses some locks without waiting, e.g. when several processes open a new file at once.
                patience_s = self._lock_wait_s if _is_locked(error) else patience_s
                is_over = time.monotonic() + wait_s > began + patience_s
                if not _is_transient(error) or (is_over and not (patience_s and self._waits_on())):
                    raise DatabaseError(self._explain(error)) from error
                if _sql_state(error) == READ_ONLY_STATE:
                    self._engine.dispose()  # connections to the server that was the primary before a fail-over
                if _cause(error) != reported:  # one line for each cause, however long it lasts
                    reported = _cause(error)
                    log.warning("database %s: %s; retrying", self.address, reported)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 2.0)

    def _explain(self, error: SQLAlchemyError) -> str:
        cause = _cause(error)
        for pattern, advice in _ADVICE.items():
            if pattern in cause:
                return f"database {self.address}: {cause}; {advice}"
        return (
            f"database {self.address}: {cause}; expected a database that answers. What was committed is safe in the "
            "store: repair it, or use another database and run `illume index rebuild`, then `illume run` again"
        )


def database_exists(url: str) -> bool:
    """False if opening the address would make a new SQLite file.

    Raises: DatabaseError: it is not an address.
    """
    parsed = _parse(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


_ADVICE = {
    "database is locked": (
        "another process holds it for longer than a transaction takes; end that process (on SQLite: "
        "`fuser` names it), or use PostgreSQL if several machines share the database"
    ),
    "malformed": "the file is damaged; move it away and run `illume index rebuild`: the store has all that is needed",
    "not a database": "it is another kind of file; give another path, or move it away and run `illume index rebuild`",
    "unable to open": "expected a folder that exists and can be written",
    "readonly": "expected a file and folder that can be written",
    "disk is full": "free some space, then run again; nothing that was committed is lost",
}


def _identity(file: Path | None) -> tuple[int, int] | None:
    """Which file is at a path; None: none, or the database is no file."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def dump_json(value: JSON | tuple[str, ...]) -> str:
    """Compact text for a column; non-ASCII escaped, as PostgreSQL refuses some characters."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def insert_new(connection: Connection, table: Table) -> Any:
    """An `insert` in the database's dialect that supports conflict clauses (`on_conflict_do_nothing`)."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


@lru_cache
def insert_if_new(table: Table, dialect: str) -> Any:
    """Insert a row, given as parameters, unless its key exists."""
    made = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return made.on_conflict_do_nothing()


def upsert(connection: Connection, table: Table, row: Mapping[str, Any]) -> Any:
    """Insert the row, or replace the one with the same primary key."""
    keys = [column.name for column in table.primary_key]
    rest = {name: value for name, value in row.items() if name not in keys}
    return insert_new(connection, table).values(row).on_conflict_do_update(index_elements=keys, set_=rest)


def sqlite_address(file: Path) -> str:
    """The address of a file with a database; what an address gives a meaning (%, ?, #) is quoted."""
    return f"sqlite:///{quote(str(file), safe='/')}"


def _parse(url: str) -> sqlalchemy.URL:
    try:
        parsed = make_url(url) if "://" in url else sqlalchemy.URL.create("sqlite", database=url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise DatabaseError(f"database {mask_text(url)}: not an address: {mask_text(str(error))}") from error
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise DatabaseError(
        f"database {mask_text(url)}: expected a file path, sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
    )


def _address(url: sqlalchemy.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    if url.password:
        remember_secret(str(url.password))
    return mask_text(url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True))


def _engine(url: sqlalchemy.URL, lock_wait_s: float) -> Engine:
    if url.get_backend_name() == "postgresql":
        options = f"-c lock_timeout={int(lock_wait_s * 1000)} -c idle_in_transaction_session_timeout=60000"
        own_options = url.query.get("options", "")
        return sqlalchemy.create_engine(
            url,
            pool_pre_ping=True,
            max_overflow=MAX_CONNECTIONS,
            connect_args={
                "application_name": "illume",
                "connect_timeout": 10,
                "tcp_user_timeout": 20_000,  # ms without an answer before a silent server counts as gone
                "options": f"{options} {own_options if isinstance(own_options, str) else ' '.join(own_options)}",
            },
        )
    assert url.database is not None, "checked by _parse"
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"database {url.database}: cannot create the folder {str(folder)!r}: {error.strerror}"
        ) from error
    engine = sqlalchemy.create_engine(
        url,
        max_overflow=MAX_CONNECTIONS,
        connect_args={"timeout": lock_wait_s},
        pool_reset_on_return=None,  # `_transact` has ended its transaction
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # BEGIN is sent by `_begin_sqlite`; the driver would begin too late
    mode = connection.execute("pragma journal_mode=wal").fetchone()[0]
    if mode != "wal":
        raise DatabaseError(
            f"SQLite journal mode: found {mode!r}, expected 'wal'; put the database on a local disk, or use PostgreSQL"
        )
    connection.execute("pragma synchronous=full")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    statement = "begin" if read_only else "begin immediate"
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection), "only listens to engines of SQLite"
    try:
        found.execute(statement)
    except sqlite3.Error as error:
        raise OperationalError(statement, None, error) from error


def _is_transient(error: SQLAlchemyError) -> bool:
    """True for errors that pass: a broken connection, a server that is away, busy or read-only, a deadlock."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True  # all connections of this process are busy
    if not isinstance(error, DBAPIError):
        return False
    state = _sql_state(error)
    if state is None:
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    return state not in _LASTING_STATES and (state[:2] in _PASSING_CLASSES or state in _PASSING_STATES)


def _sql_state(error: SQLAlchemyError) -> str | None:
    """The five letters of the SQL standard; only from psycopg, and None when no server answered."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


READ_ONLY_STATE = "25006"  # the server is a standby, or was switched to read-only for maintenance
# Source: "PostgreSQL Error Codes", appendix A of the PostgreSQL manual.
_PASSING_CLASSES = frozenset({"08", "40", "53", "57"})  # connection, rollback, too many connections, operator
# A transaction that stood still or took too long was ended; a lock is held; the server's own disk failed.
_PASSING_STATES = frozenset({READ_ONLY_STATE, "25P03", "25P04", "55P03", "58000", "58030"})
_LASTING_STATES = frozenset({"57P04"})  # the database was dropped


def _is_locked(error: SQLAlchemyError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0) if isinstance(error, DBAPIError) else 0
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the upper bits are the extended code


def _cause(error: SQLAlchemyError) -> str:
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return mask_text(" ".join(text.split()))
