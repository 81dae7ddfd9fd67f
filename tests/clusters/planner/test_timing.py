import pytest

from clusters.planner.machines import MachineType, accelerators
from clusters.planner.memory import Layout
from clusters.planner.timing import PeakShares, communication_s, micro_batches_of_worker, step_time
from tests.clusters.planner.small import GIB, facts

NODE = accelerators(MachineType(gpu="own", gpus=8, nodes=4, bf16_tflops=100, usable_gib=100, network_gbs=50))
DDP = Layout(strategy="ddp", workers=8, shards=1, micro_items=2, recompute=False)
LINK = 32e9 * 0.8  # bytes a second inside this node
NETWORK = 50e9 * 0.8


def test_the_busiest_worker_decides() -> None:
    assert micro_batches_of_worker(facts(), DDP) == 4
    assert micro_batches_of_worker(facts(), Layout(**{**vars(DDP), "workers": 7})) == 5


def test_computing_by_hand() -> None:
    """8 items of 3 x 1 TFLOP and 0.5 TFLOP at half of 100 TFLOP/s."""
    step = step_time(facts(), DDP, NODE, peak_share=0.5, cpus_per_worker=4)
    assert step.compute_s == pytest.approx(8 * 3.5 / 50)
    recomputed = Layout(**{**vars(DDP), "recompute": True})
    assert step_time(facts(), recomputed, NODE, peak_share=0.5, cpus_per_worker=4).compute_s == pytest.approx(
        8 * 4.5 / 50
    )


def test_gradients_go_around_a_ring_twice() -> None:
    assert communication_s(facts(), DDP, NODE) == pytest.approx(2 * 7 / 8 * 4 * GIB / LINK)
    over_nodes = Layout(**{**vars(DDP), "workers": 32})
    assert communication_s(facts(), over_nodes, NODE) == pytest.approx(2 * 31 / 32 * 4 * GIB / NETWORK)


def test_sharded_weights_are_gathered_for_each_micro_batch() -> None:
    sharded = Layout(strategy="fsdp2", workers=8, shards=8, micro_items=2, recompute=False)
    assert communication_s(facts(), sharded, NODE) == pytest.approx(4 * 3 * 7 / 8 * 2 * GIB / LINK)


def test_replicas_exchange_their_shards_over_the_network() -> None:
    hybrid = Layout(strategy="fsdp2", workers=32, shards=8, micro_items=2, recompute=False)
    inside = 1 * 3 * 7 / 8 * 2 * GIB / LINK
    across = 2 * 3 / 4 * 4 * GIB / 8 / NETWORK
    assert communication_s(facts(), hybrid, NODE) == pytest.approx(inside + across)


def test_one_worker_sends_nothing() -> None:
    assert communication_s(facts(), Layout(**{**vars(DDP), "workers": 1}), NODE) == 0


def test_slow_data_decide_when_they_are_slower() -> None:
    step = step_time(facts(cpu_seconds=1.0), DDP, NODE, peak_share=0.5, cpus_per_worker=4)
    assert step.data_s == 2.0
    assert step.total_s == 2.0
    fast = step_time(facts(), DDP, NODE, peak_share=0.5, cpus_per_worker=4)
    assert fast.total_s == fast.compute_s + fast.exposed_s


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="low <= expected"):
        PeakShares(low=0.5, expected=0.4, high=0.6)
