"""Numbers on the command line. `nan` is above and below nothing, so that no range refuses it: it is refused here."""

import math
from typing import Any

import click


class FiniteNumber(click.FloatRange):
    """A number in a range; never `nan` or `inf`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return found


AT_LEAST_ZERO = FiniteNumber(min=0)
ABOVE_ZERO = FiniteNumber(min=0, min_open=True)
