"""`illume` with the small stages of the chaos tests: `python -m tests.chaos.jobs_program run RECIPE ...`."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli import exit_code
from orchestrator.stage import Location, StageContext, StageKind
from tests.orchestrator.shard_map.squares_driver import SQUARES, STEPS


@dataclass(frozen=True, kw_only=True)
class TroubleConfig:
    root: Location
    what: str  # "mistake": an error of the stage's code; "killed": its process dies, once


def make_trouble(config: TroubleConfig, context: StageContext) -> Mapping[str, float]:
    died = Path(config.root, "died")
    if config.what == "killed" and not died.exists():
        died.touch()
        sys.stdout.write("the last words of a stage driver\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.what == "mistake":
        raise ValueError("columns: found 3, expected 4")
    context.tracker.log_metrics({"loss": 0.5}, step=1)
    (context.output / "done").write_text("done")
    return {"answer": 42.0}


TROUBLE = StageKind(name="trouble", version=1, config=TroubleConfig, run=make_trouble, output="trouble@1")
KINDS = {kind.name: kind for kind in (SQUARES, STEPS, TROUBLE)}

if __name__ == "__main__":
    sys.exit(exit_code(sys.argv[1:], KINDS))
