"""One short round of the storm in each climate. `make chaos` goes on for hours."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos import weathers as w
from tests.chaos.services import running_services
from tests.chaos.storm import one_round
from tests.chaos.test_failpoints import finish

pytestmark = pytest.mark.timeout(900)

FREEZING = (w.frozen_driver, w.mount_away, w.collection)
ZOMBIES = (w.zombie_job, w.frozen_driver, w.collection, w.takedown)


@pytest.mark.parametrize(("climate", "weathers"), [("disk", FREEZING), ("jobs", ZOMBIES)])
def test_the_run_ends_as_an_undisturbed_one(climate: str, weathers: Sequence[w.Weather], tmp_path: Path) -> None:
    quiet = finish(tmp_path / "quiet")
    storm = one_round(climate, 1, quiet, None, weathers)
    assert len(storm.story) == 1 + len(weathers)


def test_a_run_outlasts_partitions_fail_overs_and_a_lost_name_server(tmp_path: Path) -> None:
    quiet = finish(tmp_path / "quiet")
    weathers = (w.partition, w.database_restart, w.no_names, w.database_read_only)
    with running_services(tmp_path) as services:
        storm = one_round("network", 1, quiet, services, weathers)
    assert len(storm.story) == 1 + len(weathers)
