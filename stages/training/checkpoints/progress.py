"""How far a training is, and which data it skipped: the JSON beside the tensors of a checkpoint or a result."""

import json
from dataclasses import dataclass
from pathlib import Path

PROGRESS_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Skip:
    """From optimizer step `at` on, `count` more data steps are skipped."""

    at: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many steps a training has done, and which data it skipped."""

    step: int = 0  # optimizer steps done
    skips: tuple[Skip, ...] = ()

    def data_step(self, step: int) -> int:
        """The data step that an optimizer step consumes."""
        return step + sum(skip.count for skip in self.skips if skip.at <= step)

    def optimizer_step(self, data_step: int) -> int | None:
        """The optimizer step that consumed a data step; None if the data step was skipped."""
        num_skipped = 0
        for skip in sorted(self.skips, key=lambda skip: skip.at):
            first = skip.at + num_skipped
            if data_step < first:
                break
            if data_step < first + skip.count:
                return None
            num_skipped += skip.count
        return data_step - num_skipped


def read_progress(folder: Path) -> Progress:
    """The progress in the folder of a checkpoint or an artifact; 0 steps and no skips if it has no `state.json`."""
    path = folder / PROGRESS_FILE
    return parse_progress(path.read_bytes()) if path.exists() else Progress()


def parse_progress(data: bytes) -> Progress:
    """The progress in the bytes of a `state.json`."""
    state = json.loads(data)
    return Progress(step=int(state["step"]), skips=tuple(Skip(**skip) for skip in state["skips"]))
