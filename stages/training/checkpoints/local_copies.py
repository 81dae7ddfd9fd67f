"""Copies of a worker's checkpoint file on the disk of its node, from which a restart there reads instead of the store.

They only save time: a copy counts if its bytes have the digest that the committed checkpoint names, and whatever goes
wrong with one is logged, and the store is read.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.backends.objects import file_digest
from orchestrator.stage import Checkpoint

logger = logging.getLogger(__name__)

FORGOTTEN_S = 7 * 24 * 3600.0  # after which copies of another training, which nobody continued here, are deleted
VIEW = "as-read"  # folder of links to the files that are read
RANK = "rank-"  # begins the name of a worker's folder


def worker_file(rank: int) -> str:
    """The name of a worker's file in a checkpoint."""
    return f"worker-{rank:05d}.safetensors"


class LocalCopies:
    """Of one worker: the file of its newest committed checkpoint, and of the one that is being written."""

    def __init__(self, training: Path, rank: int) -> None:
        """`training`: folder of this training on the node's disk; those beside it belong to others."""
        self._training, self._folder = training, training / f"{RANK}{rank:05d}"
        self.kept_for: Sequence[int] = ()  # other workers, whose copies are kept on this disk too

    def of_rank(self, rank: int) -> "LocalCopies":
        """Those of another worker on the same disk."""
        return LocalCopies(self._training, rank)

    def find(self, checkpoint: Checkpoint, name: str) -> Path | None:
        """A copy of a file of a checkpoint whose bytes are those that were committed."""
        [sha256] = (entry.sha256 for entry in checkpoint.files if entry.path == name)
        return self._of_step(checkpoint.step) / name if self._is_sound(checkpoint.step, name, sha256) else None

    def find_any(self, checkpoint: Checkpoint, name: str) -> Path | None:
        """The same among those of all workers on this disk."""
        ranks = (int(folder.name.removeprefix(RANK)) for folder in sorted(self._training.glob(f"{RANK}*")))
        return next((path for rank in ranks if (path := self.of_rank(rank).find(checkpoint, name))), None)

    def delete_forgotten(self) -> None:
        """Delete copies of trainings that have not been continued here for a week."""
        if not self._training.parent.is_dir():
            return
        for other in self._training.parent.iterdir():
            newest_s = max((path.lstat().st_mtime for path in other.rglob("*")), default=other.lstat().st_mtime)
            if other != self._training and newest_s < time.time() - FORGOTTEN_S:
                shutil.rmtree(other, ignore_errors=True)

    def write(self, step: int, name: str, chunks: Callable[[], Iterable[bytes | memoryview]]) -> None:
        """Write a copy of a file; without one if the disk is full or fails."""
        folder = self._of_step(step)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                for chunk in chunks():
                    file.write(chunk)
        except OSError as error:
            logger.warning("no local copy of the checkpoint of step %d: %s", step, error)
            shutil.rmtree(folder, ignore_errors=True)

    def keep_only(self, step: int) -> None:
        """Delete the copies of other steps, once the checkpoint of this one is committed."""
        for copies in (self, *map(self.of_rank, self.kept_for)):
            for folder in copies._folder.glob("*"):
                if folder != copies._of_step(step):
                    shutil.rmtree(folder, ignore_errors=True)

    def folder_of(self, checkpoint: Checkpoint) -> Path:
        """A folder with the files of a checkpoint: this worker's copy where it is sound, else those of the store."""
        sound = [entry for entry in checkpoint.files if self._is_sound(checkpoint.step, entry.path, entry.sha256)]
        if not sound:
            return checkpoint.path
        view = self._folder / VIEW
        shutil.rmtree(view, ignore_errors=True)
        copied = {entry.path for entry in sound}
        try:
            for entry in checkpoint.files:
                source = self._of_step(checkpoint.step) if entry.path in copied else checkpoint.path
                link = view / entry.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((source / entry.path).absolute())
        except OSError as error:
            logger.warning("the local copy of the checkpoint of step %d is not used: %s", checkpoint.step, error)
            return checkpoint.path
        logger.info("reads %s of the checkpoint of step %d from this node's disk", ", ".join(copied), checkpoint.step)
        return view

    def delete(self) -> None:
        """After the last step nothing is continued."""
        for copies in (self, *map(self.of_rank, self.kept_for)):
            shutil.rmtree(copies._folder, ignore_errors=True)

    def _of_step(self, step: int) -> Path:
        return self._folder / f"{step:012d}"

    def _is_sound(self, step: int, name: str, sha256: str) -> bool:
        path = self._of_step(step) / name
        try:
            is_sound = path.is_file() and file_digest(path).sha256 == sha256
        except OSError:
            is_sound = False
        if path.exists() and not is_sound:
            logger.warning("%s: is not what the committed checkpoint holds; the store is read", path)
        return is_sound
