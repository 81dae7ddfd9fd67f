"""The log files of a run: one for each attempt and one for each worker process.

In a local store they are written directly below `runs/<run>/logs/`; for a remote store they are written on this machine
and uploaded when the attempt ends.
"""

import contextlib
import contextvars
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store.store import Store

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_current_attempt: contextvars.ContextVar[str] = contextvars.ContextVar("current_attempt", default="")


class _LogFile(logging.FileHandler):
    """Drops lines that cannot be written, e.g. to a full disk, as the work matters more than its log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@dataclass(frozen=True, kw_only=True)
class RunLogs:
    store: Store
    state: Path  # local folder of the workspace
    run_id: str

    @property
    def folder(self) -> Path:
        """The local folder of the run's log files."""
        return self.store.local(self._key) or self.state / "logs" / self.run_id

    @property
    def _key(self) -> str:
        return f"runs/{self.run_id}/logs"

    def stem(self, attempt_id: str) -> Path:
        """The path of an attempt's log files without their suffixes."""
        return self.folder / attempt_id.removeprefix(f"{self.run_id}-")

    @contextlib.contextmanager
    def capture(self, attempt_id: str) -> Iterator[None]:
        """Write log lines of this thread and of threads without an attempt to the attempt's file."""
        stem = self.stem(attempt_id)
        handler: logging.Handler
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            handler = _LogFile(f"{stem}.log", encoding="utf-8")
        except OSError as error:
            log.warning("log %s.log cannot be written: %s", stem, error)
            handler = logging.NullHandler()
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        handler.setLevel(logging.INFO)
        handler.addFilter(lambda _record: _current_attempt.get() in ("", attempt_id))
        root = logging.getLogger()
        token = _current_attempt.set(attempt_id)
        root.addHandler(handler)
        if root.level > logging.INFO:
            root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            _current_attempt.reset(token)
            handler.close()
            self.finish(stem)

    def finish(self, stem: Path) -> None:
        """After an attempt has ended: delete its empty worker files, and upload the others to a remote store."""
        for file in sorted(stem.parent.glob(f"{stem.name}.*")):
            if file.stat().st_size == 0:
                if file.name != f"{stem.name}.log":  # another process may still write it
                    file.unlink(missing_ok=True)
            elif not self.store.is_local:
                try:
                    self.store.upload(file, f"{self._key}/{file.name}")
                except StoreError as error:  # the work is committed; only its log stays on this machine
                    log.warning("log %s: stays on this machine: %s", file, error)

    def files(self) -> list[Path]:
        """All log files of the run; those of a remote store are downloaded first."""
        if not self.store.is_local:
            self.folder.mkdir(parents=True, exist_ok=True)
            for item in self.store.list(self._key):
                path = self.folder / item.key.rpartition("/")[2]
                if not path.exists():
                    self.store.download(item.key, path)
        return sorted(self.folder.glob("*.log"))
