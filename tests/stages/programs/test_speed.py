"""The script that measures a step, on a CPU at a tiny size; on a GPU the published size against what is expected."""

import pytest
import torch

from stages.programs.speed import SETUPS, TINY_SETUPS, Setup, flops_per_token, measure, model_config, table


def test_the_table_has_a_line_for_each_setup() -> None:
    lines = table(torch.device("cpu"), TINY_SETUPS, steps=1).splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["tiny", "128", "full", "fp32"],
        ["tiny", "128", "none", "fp32"],
        ["tiny", "128", "full", "bf16"],
    ]
    assert all(float(line.split()[4].replace(",", "")) > 0 for line in lines[1:])


@pytest.mark.parametrize(
    ("name", "published", "hidden"), [("3B", 3.086e9, 2048), ("7B", 7.616e9 - 151_936 * 3584, 3584)]
)
def test_the_work_of_a_token_is_about_six_times_the_parameters_it_meets(
    name: str, published: float, hidden: int
) -> None:
    """`published`: of the text model without the embedding where the output has a table of its own."""
    setup = next(setup for setup in SETUPS if setup.name == name)
    parameters = published - 151_936 * hidden + 282_993 * hidden  # with the larger table
    assert flops_per_token(setup, model_config(setup.text)) == pytest.approx(6 * parameters, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("setup", SETUPS, ids=["3B recomputed", "3B", "7B recomputed"])
def test_the_published_size_uses_the_expected_share_of_a_gpu(setup: Setup) -> None:
    assert measure(setup, torch.device("cuda", 0), steps=10).peak_share >= setup.expected
