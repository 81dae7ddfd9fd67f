"""Names that people choose, of schedules and of users: any terminal, file and address holds them as they are."""

import re

from orchestrator.errors import RecipeError

MAX_LENGTH = 64
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.@+-]{{0,{MAX_LENGTH - 1}}}")


def check_name(name: str, where: str) -> str:
    """The name itself. Raises: RecipeError: it is empty or long, or has spaces, control characters or `#`, `:`, `/`."""
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f"{where}: found {name[: 2 * MAX_LENGTH]!r}, expected 1 to {MAX_LENGTH} letters, digits and . _ @ + -, the "
            "first one a letter, a digit or _"
        )
    return name
