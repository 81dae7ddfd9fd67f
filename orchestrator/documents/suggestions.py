"""Checks of names that a user typed; the messages suggest the nearest valid name."""

import difflib
from collections.abc import Collection, Iterable

from orchestrator.errors import RecipeError

MAX_LISTED = 12  # names listed where none is near


def expectation(found: str, valid: Collection[str]) -> str:
    """The end of an error message: `did you mean 'curate'?`, or the valid names if none is similar."""
    near = difflib.get_close_matches(found, sorted(valid), n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = sorted(valid)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return f"expected one of: {', '.join(listed[:MAX_LISTED])}{more}" if listed else "none is expected here"


def check_names(names: Iterable[str], valid: Collection[str], *, where: str, what: str) -> None:
    """Raises: RecipeError: a name is not among the valid ones."""
    for name in names:
        if name not in valid:
            raise RecipeError(f"{where}: found no {what} {name!r}; {expectation(name, valid)}")
