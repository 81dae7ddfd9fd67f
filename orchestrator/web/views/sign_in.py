"""The page where people sign in."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SignInView:
    next: str  # where to go on
    takes_tokens: bool  # False: the proxy in front signs people in
