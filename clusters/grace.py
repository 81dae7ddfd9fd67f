"""The time that a process has between SIGTERM and the kill, as profiles state it."""

from collections.abc import Mapping

from orchestrator.cluster.end_signals import GRACE_VARIABLE


def check_grace(stop_grace_s: float | None) -> None:
    """Check `stop_grace_s`: seconds between SIGTERM and the kill of the process that runs stages; null: 30, 0: no kill.

    What has not reached its commit point by then is left. The variable ILLUME_STOP_GRACE_S replaces it.
    Raises: ValueError: it is negative.
    """
    if stop_grace_s is not None and stop_grace_s < 0:
        raise ValueError(f"stop_grace_s: found {stop_grace_s:g}, expected 0 or more seconds")


def with_grace(environment: Mapping[str, str], stop_grace_s: float | None) -> dict[str, str]:
    """The variables of a stage driver elsewhere, told what its profile says unless they say it themselves."""
    stated = {} if stop_grace_s is None else {GRACE_VARIABLE: f"{stop_grace_s:g}"}
    return {**stated, **environment}
