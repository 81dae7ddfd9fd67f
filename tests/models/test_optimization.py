"""Learning rates over the steps, and the peaks of parameter groups."""

import math
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch

from models.optimization import (
    LowPrecisionAdam,
    average_into,
    learning_rate_factor,
    make_optimizer,
    orthogonalized,
    set_learning_rates,
)

SHAPES = {"matrix": (24, 8), "rows": (40, 8), "vector": (8,)}


def factors(
    steps: int, *, schedule: Literal["constant", "cosine"] = "cosine", warmup: float = 0.0, final: float = 0.0
) -> list[float]:
    return [
        learning_rate_factor(step, steps=steps, schedule=schedule, warmup_share=warmup, final_share=final)
        for step in range(steps)
    ]


def test_warm_up_rises_in_equal_parts_and_ends_at_the_peak() -> None:
    found = factors(100, warmup=0.1)
    rises = [later - sooner for sooner, later in pairwise(found[:11])]
    assert found[0] == pytest.approx(1 / 11)  # never 0: the first step trains too
    assert rises == pytest.approx([1 / 11] * 10)
    assert found[10] == max(found) == 1.0


def test_a_constant_rate_stays_at_its_peak_after_warm_up() -> None:
    assert factors(10, schedule="constant", warmup=0.2) == pytest.approx([1 / 3, 2 / 3] + [1.0] * 8)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_a_cosine_falls_from_the_peak_to_its_final_share(final: float) -> None:
    found = factors(1000, warmup=0.1, final=final)
    assert found[550] == pytest.approx((1 + final) / 2)  # half way after the warm-up
    assert found[-1] == pytest.approx(final, abs=1e-5)
    assert all(sooner > later for sooner, later in pairwise(found[100:]))
    assert found[325] == pytest.approx(final + (1 - final) * 0.5 * (1 + math.cos(math.pi / 4)))


def test_a_single_step_trains_at_the_peak() -> None:
    assert factors(1, warmup=0.9) == [1.0]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_each_group_keeps_the_ratio_of_its_peak(name: Literal["adam", "adamw"]) -> None:
    slow, fast = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [slow], "lr": 1e-4, "weight_decay": 0.5}, {"params": [fast], "lr": 1e-2}]
    optimizer = make_optimizer(groups, name=name, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for factor in (0.5, 1.0, 0.25):
        set_learning_rates(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor * 1e-4, factor * 1e-2])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_nothing_is_trained_before_the_rates_are_set() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(
        [{"params": [parameter], "lr": 1.0}], name="adamw", betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    parameter.grad = torch.ones(2)
    set_learning_rates(optimizer, 0.0)
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
    set_learning_rates(optimizer, 0.5)
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.5, 0.5], rel=1e-4)  # Adam's first steps have the size of the rate


def test_averages_follow_the_formula_and_integers_are_copied() -> None:
    average, number = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    expected, values = 1.0, (3.0, 5.0, -1.0)
    for count, value in enumerate(values):
        average_into(average, torch.tensor([value]), 0.5, count)
        average_into(number, torch.tensor([count]), 0.5, count)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert average.item() == pytest.approx(expected)
    assert number.item() == len(values) - 1


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_moments_in_bf16_take_the_steps_of_fp32_within_its_precision(name: Literal["adam", "adamw"]) -> None:
    generator = torch.Generator().manual_seed(1)
    found = []
    for states in (torch.float32, torch.bfloat16):
        generator.manual_seed(1)
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 64))
        groups = [{"params": [weight], "lr": 1e-2, "weight_decay": 0.1}]
        optimizer = make_optimizer(groups, name=name, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, states=states)
        set_learning_rates(optimizer, 1.0)
        for _ in range(50):
            weight.grad = torch.randn(64, generator=generator) + weight.detach()
            optimizer.step()
        found.append(weight.detach().clone())
        assert {slot: value.dtype for slot, value in optimizer.state[weight].items()} == {
            "step": torch.float32,
            "exp_avg": states,
            "exp_avg_sq": states,
        }
    moved = (found[0] - torch.linspace(-1, 1, 64)).abs()
    assert moved.max() > 0.1
    torch.testing.assert_close(found[1], found[0], atol=0.01 * float(moved.max()), rtol=0.01)


def test_with_states_in_fp32_the_low_precision_optimizer_is_the_one_of_torch() -> None:
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2)]
    settings: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = [
        torch.optim.AdamW([weights[0]], lr=1e-2, **settings),
        LowPrecisionAdam([{"params": [weights[1]], "lr": 1e-2}], is_decoupled=True, states=torch.float32, **settings),
    ]
    for step in range(20):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_an_orthogonalized_matrix_has_the_same_singular_vectors_and_equal_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.max() > 2 * values.min()
    found = left.T @ orthogonalized(matrix) @ right.T
    torch.testing.assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-4)
    assert 0.6 < found.diagonal().min() <= found.diagonal().max() < 1.25
    assert not orthogonalized(torch.zeros(shape)).any()


def test_muon_is_that_of_torch_for_matrices_and_adamw_for_the_rest() -> None:
    """That of torch iterates in bf16, so its updates differ by a few parts in a thousand of their size."""
    start = {name: torch.randn(shape, generator=torch.Generator().manual_seed(2)) for name, shape in SHAPES.items()}
    ours, theirs = ({name: torch.nn.Parameter(value.clone()) for name, value in start.items()} for _ in range(2))
    rate, decay = 1e-2, 0.1
    groups = [
        {"params": [ours["matrix"]], "lr": rate, "matrices": True},
        {"params": [ours["rows"], ours["vector"]], "lr": rate, "matrices": False},
    ]
    optimizer = make_optimizer(groups, name="muon", betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    set_learning_rates(optimizer, 1.0)
    references = [
        torch.optim.Muon([theirs["matrix"]], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs["rows"], theirs["vector"]], lr=rate, betas=(0.9, 0.95), weight_decay=decay),
    ]
    for step in range(10):
        for parameters in (ours, theirs):
            for parameter in parameters.values():
                parameter.grad = torch.sin(parameter.detach() * (step + 1))
        for each in (optimizer, *references):
            each.step()
    torch.testing.assert_close(ours["vector"], theirs["vector"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours["rows"], theirs["rows"], rtol=1e-6, atol=1e-7)
    moved, expected = (found["matrix"].detach() - start["matrix"] for found in (ours, theirs))
    assert (moved - expected).norm() < 0.02 * expected.norm()
    assert optimizer.state[ours["matrix"]].keys() == {"step", "exp_avg"}
