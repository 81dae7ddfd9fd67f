"""The script that measures a step, on a CPU at a tiny size; on a GPU the published size against what is expected."""

import pytest
import torch

from stages.programs.speed import SETUPS, TINY_SETUPS, Setup, flops_per_token, measure, model_config, table


def test_the_table_has_a_line_for_each_setup() -> None:
    lines = table(torch.device("cpu"), TINY_SETUPS, steps=1).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["tiny", "128", "full"], ["tiny", "128", "none"]]
    assert all(float(line.split()[3].replace(",", "")) > 0 for line in lines[1:])


def test_the_work_of_a_token_is_about_six_times_the_parameters_it_meets() -> None:
    setup = SETUPS[0]
    parameters = 3.086e9 - 151_936 * 2048 + 282_993 * 2048  # of the published text model, with the larger table
    assert flops_per_token(setup, model_config(setup.text)) == pytest.approx(6 * parameters, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("setup", SETUPS, ids=["full recompute", "no recompute"])
def test_the_published_size_uses_the_expected_share_of_a_gpu(setup: Setup) -> None:
    assert measure(setup, torch.device("cuda", 0), steps=10).peak_share >= setup.expected
