"""Fixtures that many tests share."""

import signal
import socket
from pathlib import Path

import hypothesis
import pytest

from tests.end_to_end.desk import TINY, Desk

SHARED = Path(__file__).resolve().parents[2] / "shared"

# What takes longer on a busy machine is not wrong.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch  # not for the tests that do without it

        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU here; on a machine with one: python -m pytest -m gpu")


@pytest.fixture(scope="session", autouse=True)
def hangup_is_not_ignored() -> None:
    """Under `nohup` the programs that tests start would ignore SIGHUP, too; a handler does not outlive `exec`."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors and real pictures beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The folder of an undisturbed run of the tiny recipe, about a minute of work; tests only look at it."""
    desk = Desk(folder=tmp_path_factory.mktemp("finished"))
    desk.illume("run", str(TINY))
    return desk


@pytest.fixture
def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
