"""Points in time as text: ISO 8601 in UTC with its zone, everywhere. No other module formats one."""

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)")
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def iso_time(time_s: float) -> str:
    """Seconds since 1970 as `2025-01-31T08:15:00.250000Z`: always of this length, so that texts sort by time."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def short_time(time_s: float) -> str:
    """Seconds since 1970 as `2025-01-31T08:15:00Z`, for people."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log_time(time_s: float) -> str:
    """Seconds since 1970 as `2025-01-31T08:15:00.250Z`, at the start of a line of a log."""
    return iso_time(time_s)[:23] + "Z"


def parse_time(text: str, *, now_s: float) -> float:
    """Seconds since 1970 of an ISO 8601 time, in UTC if it names no zone, or of a time ago: `90s`, `10m`, `2h`, `1d`.

    Raises: ValueError: it is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now_s - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]]).total_seconds()
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"found {text!r}, expected 10m, 2h, 1d or a time like 2025-01-31T08:15:00Z") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
