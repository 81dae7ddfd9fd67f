"""Numbers, durations, times and identities as short text.

Byte counts are humanize's. Durations are our own: they stand in narrow columns and change while they are read, and
humanize either drops what matters (`naturaldelta`: 18120 s and 20000 s are both "5 hours", 59.6 s is "59 seconds") or
takes a line (`precisedelta`: "3 minutes and 7 seconds"). Counts are our own: `humanize.metric` makes 4100 "4.10 k".
"""

from humanize import naturalsize

from orchestrator.times import short_time

SHORT_IDENTITY = 12  # hex digits: enough to distinguish the artifacts of one store


def duration_text(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 07 s`, `5 h 02 min`, `2 d 04 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def count_text(number: float) -> str:
    """A count for a narrow column: `950`, `12.3k`, `4.1M`."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (1000.0 if suffix == 'k' else limit):.1f}{suffix}"
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


def bytes_text(number: float) -> str:
    """`512 Bytes`, `1.5 MiB`."""
    return naturalsize(number, binary=True)


def time_text(seconds: float) -> str:
    """Date and time of seconds since 1970, in UTC, as everywhere."""
    return short_time(seconds)


def short(identity: str) -> str:
    return identity[:SHORT_IDENTITY]
