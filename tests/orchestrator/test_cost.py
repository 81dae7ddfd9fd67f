import pytest

from orchestrator.cost import ConfigTree, CostFacts, PartCost


def part(**changes: float) -> PartCost:
    fields = {
        "parameters": 10,
        "trained_parameters": 4,
        "forward_flops": 100.0,
        "training_passes": 3.0,
        "saved_bytes": 7.0,
    }
    return PartCost(name="part", **{**fields, **changes})  # type: ignore[arg-type]


def facts(*parts: PartCost) -> CostFacts:
    return CostFacts(
        steps=1,
        item="row",
        items_per_step=8,
        items_per_micro_batch=1,
        tokens_per_item=16.0,
        samples_per_item=2.0,
        precision="bf16",
        parts=parts,
        recompute=True,
    )


def test_sums_over_parts() -> None:
    found = facts(part(), part(trained_parameters=0, training_passes=1.0))
    assert (found.parameters, found.trained_parameters) == (20, 4)
    assert found.training_flops == 400.0


def test_only_parts_with_a_backward_pass_are_recomputed() -> None:
    found = facts(part(recomputed_bytes=1.0), part(recomputed_bytes=1.0, training_passes=1.0), part())
    assert found.recomputed_flops == 100.0


def test_more_trained_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="11 of 10 parameters train"):
        part(trained_parameters=11)


def test_first_of_a_slot() -> None:
    leaf = ConfigTree(config=1, inputs={})
    tree = ConfigTree(config=2, inputs={"start": (leaf,), "none": ()})
    assert tree.first("start") is leaf
    assert tree.first("none") is None
    assert tree.first("other") is None
