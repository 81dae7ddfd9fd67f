"""Addresses of this service."""

from urllib.parse import quote, urlencode


def link(*parts: str, **query: object) -> str:
    """An address below the root: `link("runs", run, stage, q="a b")`; what is empty is left out of the query."""
    asked = {name: value for name, value in query.items() if value not in ("", None, False)}
    return f"/{'/'.join(quote(part, safe='') for part in parts)}" + (f"?{urlencode(asked)}" if asked else "")
