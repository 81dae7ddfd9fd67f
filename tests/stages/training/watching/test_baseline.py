"""What counts as a spike, against what is usual."""

import pytest

from stages.training.watching.baseline import MIN_STEPS, WINDOW, Baselines, robust_z


def test_a_value_far_above_the_history_stands_out_and_one_below_does_not() -> None:
    history = [1.0, 1.1, 0.9, 1.05, 0.95]
    assert robust_z(2.0, history, least_spread=0.01) == pytest.approx(1.0 / (1.4826 * 0.05))
    assert robust_z(0.1, history, least_spread=0.01) == 0.0


def test_earlier_spikes_do_not_hide_a_new_one() -> None:
    """A mean and a standard deviation would: three spikes of 100 make 30 look usual."""
    history = [1.0, 1.1, 0.9] * 10 + [100.0] * 3
    assert robust_z(30.0, history, least_spread=0.01) > 100


def test_nothing_is_judged_before_enough_is_known() -> None:
    baseline = Baselines().of("fit")
    for _ in range(MIN_STEPS - 1):
        baseline.add(1.0, 2.0)
    assert baseline.score(1e9, 1e9) == (0.0, 0.0)
    baseline.add(1.0, 2.0)
    of_loss, of_norm = baseline.score(2.0, 2.0)
    assert of_loss == pytest.approx(100)  # a loss that never moves counts with 1 % of it
    assert of_norm == 0.0
    assert baseline.score(1.0, 20.0)[1] > 40


def test_a_falling_loss_with_noise_has_no_spike() -> None:
    baseline = Baselines().of("fit")
    highest = 0.0
    for step in range(400):
        loss, norm = (
            5.0 / (1 + step / 50) * (1 + 0.05 * ((step * 7919) % 13 - 6) / 6),
            1.0 + 0.3 * ((step * 31) % 7) / 7,
        )
        highest = max(highest, *baseline.score(loss, norm))
        baseline.add(loss, norm)
    assert highest < 4


def test_a_training_that_continues_judges_as_one_that_was_never_stopped() -> None:
    whole = Baselines()
    for step in range(WINDOW + 7):
        whole.of("fit").add(1 / (1 + step), 0.1 + 1 / (3 + step))
    continued = Baselines(whole.to_json())
    assert continued.of("fit") == whole.of("fit")
    assert len(whole.of("fit").losses) == WINDOW
    assert continued.of("fit").score(0.3, 0.7) == whole.of("fit").score(0.3, 0.7)


@pytest.mark.parametrize("saved", [None, [], {"fit": 3}, {"fit": {"losses": "?"}}])
def test_checkpoints_of_before_have_no_history(saved: object) -> None:
    assert Baselines(saved).of("fit").losses == []  # type: ignore[arg-type]  # damaged on purpose
