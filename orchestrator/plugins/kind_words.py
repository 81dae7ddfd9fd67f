"""What a kind says of its metrics. This is code of the kind that only describes: when it fails, nothing else does."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.stage import StageKind

T = TypeVar("T")

log = logging.getLogger(__name__)


def headline_of(kind: StageKind[Any], metrics: Mapping[str, float]) -> str:
    """The telling metrics in a few words; empty if the kind has none for these metrics."""
    return _said(f"headline of {kind.name}", kind.headline, metrics) or ""


def warnings_of(kind: StageKind[Any], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """What a reader of the metrics must know before he believes the output to be good, a sentence each."""
    return tuple(_said(f"warnings of {kind.name}", kind.warnings, metrics) or ())


def _said(what: str, make: Callable[[Mapping[str, float]], T] | None, metrics: Mapping[str, float]) -> T | None:
    if make is None or not metrics:
        return None
    try:
        return make(metrics)
    except KeyError:  # an artifact of older code, or of an attempt that made no step, lacks some of them
        return None
    except Exception as error:  # noqa: BLE001 - code of the kind; what it describes is there without it
        log.warning("the %s cannot be made: %s: %s", what, type(error).__name__, error)
        return None
