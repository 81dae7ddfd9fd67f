import resource

import pytest

from stages.training.step_line import (
    FIRST_STEPS,
    LINE_S,
    LinePace,
    StepFigures,
    process_memory_gib,
    step_figures,
    step_line,
)


def test_the_line_of_a_step_has_what_an_engineer_asks_for() -> None:
    metrics = {
        "train/loss": 2.3091,
        "train/lr": 7e-4,
        "train/grad_norm": 1.0,
        "steps_per_s": 1.8,
        "weight_per_s": 3410.4,
        "memory_gib": 0.613,
        "data_wait_s": 0.0021,
    }
    assert step_line(step_figures(120, 2000, metrics)) == (
        "step 120/2000, loss 2.309, lr 7.0e-04, 1.8 steps/s, 3,410 tokens/s, 0.61 GiB, data wait 0.002 s, 17 min left"
    )


def test_the_line_tells_kinds_sources_the_peak_and_the_slowest_worker_with_its_node() -> None:
    metrics = {
        "language/loss": 4.2,
        "language/text_loss": 2.1,
        "language/pixel_loss": 6.0,
        "language/loss_of/0 generation": 5.0,
        "language/loss_of/1 understanding": 2.25,
        "validation/language/loss": 4.4,
        "validation/language/text_loss": 2.2,
        "language/lr": 2e-5,
        "weight_per_s": 3410.4,
        "padding_share": 0.09,
        "mfu": 0.4512,
        "workers/own_step_s_median": 0.41,
        "workers/own_step_s_slowest": 0.62,
        "workers/slowest": 1.0,
    }
    assert step_line(step_figures(120, 2000, metrics, nodes=("node-1", "node-7"))) == (
        "step 120/2000, loss 4.2, by kind text 2.1, pixel 6, by source 0 generation 5, 1 understanding 2.25, "
        "validation loss 4.4, lr 2.0e-05, 3,410 tokens/s, padding 9%, MFU 45.1%, own part 0.410 s, slowest 0.620 s "
        "(worker 1 on node-7)"
    )


def test_passes_are_told_apart_and_what_was_not_measured_is_left_out() -> None:
    figures = StepFigures(
        step=1, steps=2, losses={"generator": 2.0, "discriminator": 0.5}, learning_rates={"generator": 1e-5}
    )
    assert step_line(figures) == "step 1/2, loss generator 2, discriminator 0.5, lr 1.0e-05"


def test_the_first_steps_and_the_last_have_a_line_and_then_one_every_few_seconds() -> None:
    now = [0.0]
    pace = LinePace(clock=lambda: now[0])
    due = []
    for step in range(1, 101):
        now[0] += LINE_S / 20
        if pace.is_due(is_last=step == 100):
            due.append(step)
    assert due[:FIRST_STEPS] == [1, 2, 3]
    assert due[FIRST_STEPS:] == [23, 43, 63, 83, 100]


def test_the_memory_of_a_process_is_its_peak() -> None:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert process_memory_gib() == pytest.approx(peak_kib / 2**20, rel=1e-4)


def test_a_kind_that_is_alone_is_named() -> None:
    metrics = {"language/loss": 4.2, "language/text_loss": 2.1, "language/loss_of/0 web": 4.25}
    assert step_line(step_figures(1, 2, metrics)) == "step 1/2, loss 4.2, by kind text 2.1, by source 0 web 4.25"


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (90, "90 s"),
        (119, "119 s"),
        (120, "2 min"),
        (1200, "20 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (90000, "25.0 h"),
    ],
)
def test_the_time_left_is_short(left: int, text: str) -> None:
    line = step_line(StepFigures(step=0, steps=left, losses={}, learning_rates={}, steps_per_s=1.0))
    assert line.endswith(f"{text} left")
