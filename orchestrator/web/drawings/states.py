"""How each state of a run, stage or attempt looks: a tone of the stylesheet, an icon and a word.

Rule: no state is told apart by colour alone; each tone has an icon and a pattern of its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tone:
    """The look of a state."""

    name: str  # class `tone-NAME` of the stylesheet, and the name of the icon
    label: str  # the state in a word, for people


_MADE = Tone(name="made", label="Made")
_RUNNING = Tone(name="running", label="Running")
_WAITING = Tone(name="waiting", label="Waiting")
_IDLE = Tone(name="idle", label="Not run")
_CANCELLED = Tone(name="cancelled", label="Cancelled")
_FAILED = Tone(name="failed", label="Failed")
_LOST = Tone(name="lost", label="Lost")

_TONES = {
    "SUCCEEDED": Tone(name="made", label="Succeeded"),
    "COMMITTED": _MADE,
    "MADE": _MADE,
    "REUSED": Tone(name="reused", label="Reused"),
    "RECOVERED": Tone(name="recovered", label="Recovered"),
    "RUNNING": _RUNNING,
    "INTENT": Tone(name="running", label="Starting"),
    "STOPPING": Tone(name="waiting", label="Stopping"),
    "WAITING": _WAITING,
    "QUEUED": Tone(name="waiting", label="Queued"),
    "PLANNED": Tone(name="idle", label="Planned"),
    "NOT_RUN": _IDLE,
    "SKIPPED": Tone(name="idle", label="Skipped"),
    "CANCELLED": _CANCELLED,
    "INTERRUPTED": Tone(name="lost", label="Interrupted"),
    "FAILED": _FAILED,
    "LOST": _LOST,
    "ABANDONED": Tone(name="lost", label="Driver gone"),
    "QUARANTINED": Tone(name="warned", label="Quarantined"),
    "TAKEN_DOWN": Tone(name="warned", label="Taken down"),
}


def tone_of(state: str) -> Tone:
    """The look of a state; one that is not known is shown as it is called."""
    return _TONES.get(state) or Tone(name="idle", label=state.replace("_", " ").capitalize())


def tone_names() -> tuple[str, ...]:
    """All tones that the stylesheet must colour."""
    return tuple(sorted({tone.name for tone in _TONES.values()}))
