import json
from pathlib import Path

import pytest

from clusters.planner.states import (
    deepspeed_zero2,
    deepspeed_zero3,
    full_precision_states,
    mixed_precision_states,
)

STRATEGIES = {0: "ddp", 1: "zero1", 2: "zero2", 3: "zero3"}


def test_reference_rows(shared: Path) -> None:
    rows = json.loads((shared / "reference" / "planner" / "planner_reference.json").read_text())["states"]
    assert len(rows) == 19
    for row in rows:
        strategy = "fsdp2" if row.get("kind") == "fsdp2" else STRATEGIES[row["stage"]]
        found = mixed_precision_states(
            strategy,
            row["P"],
            shards=row["N"],
            largest_unit=row["largest"],  # type: ignore[arg-type]
        )
        assert found.total == row["bytes"]


def test_estimators_of_deepspeed(shared: Path) -> None:
    models = json.loads((shared / "reference" / "planner" / "memory_flops_vectors.json").read_text())
    compared = 0
    for model in models.values():
        parameters, largest = (
            model["params"]["deepspeed_total_params"],
            model["params"]["deepspeed_largest_layer_params"],
        )
        for row in model["deepspeed"]:
            where = {"nodes": row["num_nodes"], "gpus_per_node": row["num_gpus_per_node"]}
            if "zero2" in row["fn"]:
                found = deepspeed_zero2(parameters, offload=row["cpu_offload"], **where)
            else:
                found = deepspeed_zero3(
                    parameters,
                    largest_layer=largest,
                    offload=row["cpu_offload"],
                    offload_weights=row["cpu_offload_params"],
                    **where,
                )
            assert (int(found.gpu), int(found.cpu)) == (row["gpu_mem_bytes"], row["cpu_mem_bytes"])
            compared += 1
    assert compared == 125


def test_frozen_parameters_have_no_states() -> None:
    alone = mixed_precision_states("zero2", 100, shards=4, largest_unit=10)
    beside = mixed_precision_states("zero2", 100, shards=4, largest_unit=10, frozen=50)
    assert beside.total - alone.total == 100  # two bytes each, which zero2 does not shard
    sharded = mixed_precision_states("fsdp2", 100, shards=4, largest_unit=10, frozen=50)
    assert sharded.weights == 2 * 150 / 4


def test_full_precision_with_and_without_autocast() -> None:
    plain = full_precision_states(100, frozen=50, autocast=False)
    assert (plain.weights, plain.gradients, plain.optimizer, plain.live_units) == (600, 400, 800, 0)
    assert full_precision_states(100, frozen=50, autocast=True).live_units == 300


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp2"])
def test_more_shards_never_need_more(strategy: str) -> None:
    totals = [
        mixed_precision_states(strategy, 1000, shards=shards, largest_unit=50, frozen=100).total  # type: ignore[arg-type]
        for shards in (1, 2, 4, 8)
    ]
    assert totals == sorted(totals, reverse=True)
