"""What a training worker tells the stage's driver beside metrics: findings that people read, and files about them.

Imports nothing heavy: the process between workers and driver opens this too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

WORKERS = "workers"  # the node of each worker, once known: {"nodes": [name by rank]}
LAYOUT = "training_layout"  # what the speed of steps was measured on: {"workers", "strategy", "device", "peak_tflops"}
SLOW_WORKER, UNFIT_NODE, CORRUPT_WORKER, SPIKE, PREEMPTED = (
    "slow_worker",
    "unfit_node",
    "corrupt_worker",
    "loss_spike",
    "preempted",
)
SPIKE_FILE = "loss_spike_file"  # a file that shows a sample of a spike: {"step", "name"} and its content
VALIDATION_FAILED = "validation_failed"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One finding. Can be pickled."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)  # JSON
    content: bytes = b""


class Notify(Protocol):
    def __call__(self, notice: Notice) -> None: ...
