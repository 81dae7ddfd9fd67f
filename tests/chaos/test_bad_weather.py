"""An object store that delays and refuses requests and loses replies, while drivers are killed: the same files."""

import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.counting_driver import open_workspace, plan_of
from tests.chaos.test_failpoints import WORK, ended, finish, start, worked
from tests.orchestrator import conftest as orchestrator_fixtures

s3_server = orchestrator_fixtures.s3_server
KILLED_AT = ("checkpoint.outcome@2", "artifact.manifest", "artifact.outcome", "artifact.commit@2")


@pytest.fixture
def stormy_store(
    s3_server: orchestrator_fixtures.S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[orchestrator_fixtures.S3Server]:
    """A faulty store that every driver and workspace of the test uses."""
    monkeypatch.setenv("COUNTING_STORE", s3_server.url("weather"))
    s3_server.weather, s3_server.troubles = random.Random(11), 0
    yield s3_server
    s3_server.weather = None


def test_bad_weather_and_killed_drivers_give_the_files_of_a_quiet_run(
    stormy_store: orchestrator_fixtures.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("COUNTING_STORE")
        quiet = finish(tmp_path / "quiet")
    root = tmp_path / "storm"
    for point in KILLED_AT:
        name, _, passes = point.partition("@")
        code, out = ended(start(root, f"{name}=kill@{passes or 1}"))
        assert code in (0, -signal.SIGKILL), out
    assert finish(root) == quiet
    assert stormy_store.troubles > 20
    again = worked(root) - Counter(WORK)
    assert set(worked(root)) == WORK
    assert sum(again.values()) <= len(KILLED_AT)

    stormy_store.weather = None
    with open_workspace(root) as workspace:
        assert {stage.action for stage in plan_of(root, workspace).stages} == {"reuse"}
        for stored in workspace.artifacts.all():
            assert workspace.artifacts.verify(stored.manifest.key) == []
