"""A made-up training whose figures are easy to check by hand."""

from orchestrator.cost import CostFacts, PartCost

GIB = 2**30


def facts(**changes: object) -> CostFacts:
    layers = PartCost(
        name="layers",
        parameters=GIB,  # so that four bytes of each are 4 GiB
        trained_parameters=GIB,
        forward_flops=1e12,
        training_passes=3.0,
        largest_unit=GIB // 8,
        saved_bytes=8.0 * GIB,
        recomputed_bytes=1.0 * GIB,
        unit_bytes=0.5 * GIB,
    )
    frozen = PartCost(
        name="frozen",
        parameters=GIB // 2,
        trained_parameters=0,
        forward_flops=0.5e12,
        training_passes=1.0,
        largest_unit=GIB // 2,
    )
    fields: dict[str, object] = {
        "steps": 1000,
        "item": "row",
        "items_per_step": 64,
        "items_per_micro_batch": 2,
        "tokens_per_item": 4096.0,
        "samples_per_item": 4.0,
        "precision": "bf16",
        "parts": (layers, frozen),
        "recompute": False,
        "temporary_bytes": 0.25 * GIB,
        "input_bytes": 0.0,
    }
    return CostFacts(**{**fields, **changes})  # type: ignore[arg-type]
