"""What a failed attempt found and stays open to audit for a while, although nothing of it is committed."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "failed"  # beside the cache of local copies
FINDINGS = "findings"  # in the folder of an attempt
KEPT_S = 7 * 24 * 3600.0  # people look at a failure within a week


@dataclass(frozen=True, kw_only=True)
class FailedOutput:
    """The folder of what one failed attempt found."""

    path: Path
    bytes: int  # of files that nothing else has

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.path.name}"


def failed_folder(cache: Path, attempt: str) -> Path:
    """The folder of what a failed attempt found. `attempt`: its name."""
    return cache.parent / FOLDER / attempt


def findings_folder(cache: Path, attempt: str) -> Path:
    """The folder of what an attempt found while it ran, e.g. the data of a strange step; it need not have failed.

    Below that of failed attempts, so that it is deleted after as long, and after a takedown.
    """
    return failed_folder(cache, attempt) / FINDINGS


def keep_evidence(files: Mapping[str, Path], folder: Path) -> str:
    """Keep the files below the folder, by link or copy; returns how to look at them, "" if there is nothing to see."""
    if not files:
        return ""
    try:
        for name, file in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(file, target)
    except OSError as error:  # the failure itself matters more
        log.warning("%s: what the attempt found could not be kept: %s", folder, error)
        return ""
    return f". What it found is kept: illume audit {folder}"


def newest_failed(cache: Path, run_id: str, stage_id: str) -> Path | None:
    """What the newest failed attempt at a stage of a run found; None if nothing is kept."""
    kept = [path for path in (cache.parent / FOLDER).glob("*") if path.name.startswith(f"{run_id}-{stage_id}-")]
    return max(kept, key=lambda path: path.stat().st_mtime, default=None)


def stale_failed(
    cache: Path, *, now_s: float, older_than_s: float = KEPT_S, before_s: float = 0.0
) -> list[FailedOutput]:
    """What failed attempts found longer ago than `older_than_s`, or before the time `before_s`, that of the newest
    takedown: it may show what was taken down, and is not searched for it."""
    found = []
    for path in sorted((cache.parent / FOLDER).glob("*")):
        with suppress(FileNotFoundError):  # another process deletes it
            changed_s = path.stat().st_mtime
            if changed_s < now_s - older_than_s or changed_s < before_s:
                found.append(FailedOutput(path=path, bytes=sum(_own_bytes(path))))
    return found


def delete_failed(found: list[FailedOutput]) -> list[FailedOutput]:
    """Delete them. Returns those that are gone."""
    for output in found:
        shutil.rmtree(output.path, ignore_errors=True)
    return [output for output in found if not output.path.exists()]


def _own_bytes(folder: Path) -> Iterator[int]:
    for file in folder.rglob("*"):
        facts = file.lstat()
        if file.is_file() and facts.st_nlink == 1:
            yield facts.st_size


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(file, target)
