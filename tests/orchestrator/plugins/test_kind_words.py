"""What kinds say of their metrics, and that their mistakes harm nothing else."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from orchestrator.plugins.kind_words import headline_of, warnings_of
from orchestrator.stage import StageKind


@dataclass(frozen=True, kw_only=True)
class Config:
    pass


def share(metrics: Mapping[str, float]) -> str:
    return f"{metrics['kept'] / metrics['all']:.0%} kept"


def small(metrics: Mapping[str, float]) -> list[str]:
    return [f"only {share(metrics)}"] if metrics["kept"] < 5 else []


PLAIN = StageKind(name="k", version=1, config=Config, run=lambda _config, _context: {}, output="k@1")
KIND = replace(PLAIN, headline=share, warnings=small)


def test_a_kind_describes_its_metrics() -> None:
    assert headline_of(KIND, {"kept": 2.0, "all": 4.0}) == "50% kept"
    assert warnings_of(KIND, {"kept": 2.0, "all": 4.0}) == ("only 50% kept",)
    assert warnings_of(KIND, {"kept": 6.0, "all": 6.0}) == ()


@pytest.mark.parametrize(("kind", "metrics"), [(PLAIN, {"kept": 2.0}), (KIND, {}), (KIND, {"of older code": 1.0})])
def test_nothing_is_said_without_words_or_metrics(
    kind: StageKind[Config], metrics: Mapping[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    assert (headline_of(kind, metrics), warnings_of(kind, metrics)) == ("", ())
    assert caplog.text == ""


def test_a_mistake_of_the_kind_is_named_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (headline_of(KIND, {"kept": 0.0, "all": 0.0}), warnings_of(KIND, {"kept": 0.0, "all": 0.0})) == ("", ())
    assert "the headline of k cannot be made: ZeroDivisionError" in caplog.text
    assert "the warnings of k cannot be made: ZeroDivisionError" in caplog.text
