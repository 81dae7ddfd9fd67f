"""What a failed attempt found and stays open to audit, although nothing of it is committed."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "failed"  # beside the cache of local copies


def failed_folder(cache: Path, attempt: str) -> Path:
    """The folder of what a failed attempt found. `attempt`: its name."""
    return cache.parent / FOLDER / attempt


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


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copyfile(file, target)
