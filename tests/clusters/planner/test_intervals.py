import json
import math
from pathlib import Path

import pytest

from clusters.planner.intervals import FailureModel, daly_s, waste_share, young_s


def test_reference_rows(shared: Path) -> None:
    rows = json.loads((shared / "reference" / "planner" / "planner_reference.json").read_text())["checkpoint"]
    assert len(rows) > 20
    for row in rows:
        write, mean = row["ckpt_s"], row["mtbf_s"]
        assert young_s(write, mean) == pytest.approx(row["young_s"], rel=1e-12)
        assert daly_s(write, mean) == pytest.approx(row["daly_s"], rel=1e-12)
        waste = waste_share(daly_s(write, mean), write_s=write, restart_s=row["restart_s"], mean_between_s=mean)
        assert waste == pytest.approx(row["waste_fraction"], rel=1e-9)


def test_by_hand() -> None:
    assert young_s(50, 10_000) == 1000
    assert daly_s(50, 10_000) == pytest.approx(1000 * (1 + 0.05 / 3 + 0.0025 / 9) - 50)
    assert daly_s(50, 20) == 20  # a write that takes longer than machines live
    assert waste_share(900, write_s=100, restart_s=0, mean_between_s=math.inf) == pytest.approx(0.1)


def test_no_other_interval_wastes_less_by_much() -> None:
    write, mean = 30.0, 20_000.0
    best = min(waste_share(t, write_s=write, restart_s=300, mean_between_s=mean) for t in range(200, 4000, 5))
    found = waste_share(daly_s(write, mean), write_s=write, restart_s=300, mean_between_s=mean)
    assert found == pytest.approx(best, rel=1e-3)


def test_failures_and_preemptions_add_up() -> None:
    model = FailureModel(hours_between_failures=1000, preemptions_per_day=2)
    assert model.mean_between_s(10) == pytest.approx(86_400 / (2 + 24 / 100))
    assert FailureModel(hours_between_failures=math.inf).mean_between_s(8) == math.inf


def test_rates_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="no negative"):
        FailureModel(preemptions_per_day=-1)
