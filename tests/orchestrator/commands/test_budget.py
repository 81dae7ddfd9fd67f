"""`illume budget`: what it says, and what it refuses."""

from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def test_each_change_says_what_holds_now_and_a_repeated_one_is_told(illume: Illume) -> None:
    assert illume("budget", "list").out.startswith("no budgets; `illume budget set")
    assert illume("budget", "set", "user:ada", "gpu_hours=500").out == "user:ada: 500 GPU hours a month\n"
    again = illume("budget", "set", "user:ada", "gpu_hours=500.0")
    assert again.code == 2
    assert "user:ada has a budget of 500 GPU hours a month already; nothing was changed" in again.err
    changed = illume("budget", "set", "user:ada", "gpu_hours=600", "money=900")
    assert changed.out == "user:ada: 600 GPU hours, 900 in money a month; before: 500 GPU hours\n"
    assert "user:ada: 600 GPU hours, 900 in money a month, set by " in illume("budget", "list").out
    lifted = illume("budget", "lift", "user:ada")
    assert lifted.out == "user:ada: no limit any more; before: 600 GPU hours, 900 in money\n"
    for who in ("user:ada", "user:adda"):
        again = illume("budget", "lift", who)
        assert again.code == 2
        assert f"budget: {who} has no budget; nothing was changed" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("user:ada", "gpu_hours=5", "gpu_hours=9"), "--budget: found gpu_hours twice: 5 and 9"),
        (("ada", "gpu_hours=5"), "budget: found 'ada', expected user:NAME"),
        (("user:", "gpu_hours=5"), "budget: found 'user:', expected user:NAME"),
        (("user: ada", "gpu_hours=5"), "expected user:NAME"),
        (("user:a\x1b[2J", "gpu_hours=5"), "expected user:NAME"),
        (("all", "gpu_hours=nan"), "--budget: found 'gpu_hours=nan'"),
    ],
)
def test_what_is_no_budget_is_refused(illume: Illume, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    answer = illume("budget", "set", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert not (tmp_path / ".illume").exists()
