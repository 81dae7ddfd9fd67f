"""Names of scores, and the bounds within which a score keeps a sample."""

import re
from dataclasses import dataclass

SCORE_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
# Measured by `images.facts.measure_image`.
MEASURED_SCORES = ("contrast", "entropy", "sharpness", "neighbour_correlation", "frames")
TABLE_COLUMNS = ("row", "sample_id", "slot", "embedding")


@dataclass(frozen=True, kw_only=True)
class ScoreBounds:
    """Keeps a sample whose score is within these bounds, inclusive."""

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError("found no bound, expected at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is over at_most {self.at_most:g}; no score lies between")


def check_score_name(name: str) -> None:
    """Raises: ValueError for a malformed name, or one that another score or column has."""
    if not SCORE_NAME.fullmatch(name):
        raise ValueError(f"name: found {name!r}, expected lower-case letters, digits and '_', a letter first")
    if name in (*MEASURED_SCORES, *TABLE_COLUMNS):
        raise ValueError(f"name: {name!r} is taken; give the score a name of its own")
