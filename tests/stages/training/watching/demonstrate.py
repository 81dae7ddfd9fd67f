"""Prints what is said about faults made on purpose: `python -m tests.stages.training.watching.demonstrate`."""

import logging
import sys
import tempfile
from pathlib import Path

from tests.stages.training.watching.faults import HANG_AFTER_S, train_with


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        first = train_with(("slow", "spike", "corrupt"), Path(folder, "first"))
        second = train_with(("hang",), Path(folder, "second"), hang_after_s=HANG_AFTER_S)
    for outcome, fault, kind in (
        (first, "slow", "slow_worker"),
        (first, "spike", "loss_spike"),
        (first, "corrupt", "corrupt_worker"),
        (second, "hang", "hang_suspected"),
    ):
        at, fields = outcome.first(kind)
        print(f"{fault}: {at - outcome.made_at[fault]:.1f} s: {dict(fields)}")  # noqa: T201 - a front door
    print(first.error, second.error, sep="\n")  # noqa: T201 - the same


if __name__ == "__main__":
    main()
