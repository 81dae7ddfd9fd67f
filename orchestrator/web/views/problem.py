"""An error, as a page shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProblemView:
    status: int  # of HTTP
    title: str
    message: str
    retry_s: int = 0  # when the page asks again by itself; 0: it does not
