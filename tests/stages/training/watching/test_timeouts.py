"""The order of the time-outs, and which errors say that a collective operation gave up."""

import pytest

from stages.training.watching.timeouts import collective_timeout_s, is_collective_timeout, suspect_after_s


@pytest.mark.parametrize("hang_after_s", [120.0, 1800.0, 7200.0])
def test_stacks_are_taken_before_collectives_give_up_and_these_before_the_workers_are_killed(
    hang_after_s: float,
) -> None:
    assert suspect_after_s(hang_after_s) < collective_timeout_s(hang_after_s) < hang_after_s


@pytest.mark.parametrize(
    ("text", "gave_up"),
    [
        (
            "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1440000ms for recv operation",
            True,
        ),
        ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE) ran for 1440012 ms", True),
        ("Connection closed by peer [10.0.0.4]:1234", False),
        ("loss nan", False),
    ],
)
def test_the_errors_of_gloo_and_nccl_are_known(text: str, gave_up: bool) -> None:
    assert is_collective_timeout(text) is gave_up
