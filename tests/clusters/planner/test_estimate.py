import math
from dataclasses import replace

import pytest

from clusters.planner.estimate import Assumptions, Request, cheapest, estimate_training
from clusters.planner.intervals import FailureModel, daly_s, waste_share
from clusters.planner.machines import MachineType
from clusters.planner.measured import MeasuredTraining
from clusters.planner.memory import Layout
from clusters.planner.prices import load_prices
from orchestrator.cost import CostFacts
from tests.clusters.planner.small import GIB, facts

PRICES = load_prices()
NEVER_FAILS = Assumptions(failures=FailureModel(hours_between_failures=math.inf))
REQUEST = Request(strategy="ddp", strategies=("ddp", "fsdp2"), workers=8, shards=0, cpus_per_worker=4, recompute=False)
BIG = MachineType(gpu="H200", gpus=8)
SMALL = MachineType(gpu="L40S", gpus=8)


def facts_for(_layout: Layout) -> CostFacts:
    return facts()


def test_time_hours_and_money_follow_from_the_step() -> None:
    found = estimate_training(facts_for, REQUEST, "big", BIG, PRICES, NEVER_FAILS)
    assert found.verdict.fits
    assert found.wall_s.expected == pytest.approx(1000 * found.step.total_s)
    assert found.gpu_hours.expected == pytest.approx(found.wall_s.expected * 8 / 3600)
    assert found.wall_s.low < found.wall_s.expected < found.wall_s.high
    assert found.cost is not None
    assert found.cost.low == pytest.approx(2.25 * found.gpu_hours.low)
    assert found.cost.high == pytest.approx(7.00 * found.gpu_hours.high)


def test_failures_and_checkpoints_cost_time() -> None:
    assumptions = Assumptions(failures=FailureModel(hours_between_failures=100, restart_s=600), checkpoint_gbs=0.5)
    found = estimate_training(facts_for, REQUEST, "big", BIG, PRICES, assumptions)
    write = 12 * GIB / 0.5e9
    interval = daly_s(write, 100 * 3600 / 8)
    waste = waste_share(interval, write_s=write, restart_s=600, mean_between_s=100 * 3600 / 8)
    assert found.checkpoint.interval_s == pytest.approx(interval)
    assert found.wall_s.expected == pytest.approx(1000 * found.step.total_s / (1 - waste))


def test_many_writers_share_a_checkpoint() -> None:
    sharded = replace(REQUEST, strategy="fsdp2")
    one = estimate_training(facts_for, REQUEST, "big", BIG, PRICES, Assumptions())
    many = estimate_training(facts_for, sharded, "big", BIG, PRICES, Assumptions())
    assert many.checkpoint.write_s == pytest.approx(one.checkpoint.write_s / 8)


def test_spot_machines_fail_more_often() -> None:
    spot = replace(BIG, spot=True, preemptions_per_day=10)
    plain = estimate_training(facts_for, REQUEST, "plain", BIG, PRICES, Assumptions())
    taken = estimate_training(facts_for, REQUEST, "spot", spot, PRICES, Assumptions())
    assert taken.checkpoint.interval_s < plain.checkpoint.interval_s
    assert taken.checkpoint.waste_share > plain.checkpoint.waste_share


def test_what_does_not_fit_is_timed_with_its_change() -> None:
    found = estimate_training(facts_for, REQUEST, "small", replace(SMALL, usable_gib=30), PRICES, Assumptions())
    assert not found.verdict.fits
    assert found.possible
    assert found.layout == found.verdict.change


def test_too_few_machines_are_said() -> None:
    found = estimate_training(facts_for, replace(REQUEST, workers=64), "big", BIG, PRICES, Assumptions())
    assert found.layout.workers == 8
    assert found.notes == ("asks for 64 workers; these machines have 8 accelerators, and are estimated with them",)


MEASURED = MeasuredTraining(
    device="H200-SXM",
    strategy="ddp",
    workers=16,
    run_id="r1",
    attempts=3,
    flops_per_s=(1e14, 2e14, 4e14),
    stall_s=5.0,
)


def test_measured_steps_replace_the_assumed_share() -> None:
    found = estimate_training(facts_for, replace(REQUEST, measured=MEASURED), "big", BIG, PRICES, NEVER_FAILS)
    seconds = facts().training_flops * 64 / 8 / 2e14  # eight rows of 64 for each worker, communication included
    assert found.is_measured
    assert found.step.total_s == pytest.approx(seconds)
    assert found.wall_s.expected == pytest.approx(1000 * seconds)
    assert found.wall_s.low == pytest.approx(1000 * seconds / 2)
    assert found.wall_s.high == pytest.approx(1000 * seconds * 2)


@pytest.mark.parametrize(
    "other",
    [
        replace(MEASURED, device="H100-SXM"),
        replace(MEASURED, strategy="fsdp2"),
        replace(MEASURED, strategy="deepspeed"),
    ],
)
def test_a_speed_that_was_measured_on_others_replaces_nothing(other: MeasuredTraining) -> None:
    found = estimate_training(facts_for, replace(REQUEST, measured=other), "big", BIG, PRICES, NEVER_FAILS)
    assumed = estimate_training(facts_for, REQUEST, "big", BIG, PRICES, NEVER_FAILS)
    assert not found.is_measured
    assert found.step == assumed.step


def test_a_measured_checkpoint_replaces_the_assumed_writing() -> None:
    found = estimate_training(facts_for, replace(REQUEST, measured=MEASURED), "big", BIG, PRICES, Assumptions())
    assumed = estimate_training(facts_for, REQUEST, "big", BIG, PRICES, Assumptions())
    assert (found.checkpoint.write_s, found.checkpoint.bytes) == (5.0, assumed.checkpoint.bytes)
    assert found.checkpoint.interval_s == pytest.approx(daly_s(5.0, 50_677 * 3600 / 8))
    assert found.checkpoint.waste_share < assumed.checkpoint.waste_share


def test_the_cheapest_that_works() -> None:
    estimates = [
        estimate_training(facts_for, REQUEST, name, machine, PRICES, Assumptions())
        for name, machine in (
            ("H200", BIG),
            ("dear", replace(BIG, price_per_gpu_hour=100.0)),
            ("none", replace(BIG, usable_gib=3, price_per_gpu_hour=0.01)),
        )
    ]
    found = cheapest(estimates)
    assert found is not None
    assert found.machine == "H200"
    assert cheapest(estimates[2:]) is None


def test_without_all_prices_hours_decide() -> None:
    slow, fast = (
        estimate_training(facts_for, REQUEST, name, machine, PRICES, Assumptions())
        for name, machine in (("H100", replace(BIG, bf16_tflops=100)), ("L40S", replace(SMALL, usable_gib=100)))
    )
    found = cheapest([slow, fast])
    assert found is not None
    assert found.machine == "L40S"
