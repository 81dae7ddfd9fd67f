import json
from dataclasses import replace
from pathlib import Path

import pytest

from clusters.planner.machines import MachineType, accelerators
from clusters.planner.memory import Layout, judge, memory
from orchestrator.cost import CostFacts
from tests.clusters.planner.small import GIB, facts
from tests.stages.programs import published

PUBLISHED = Layout(strategy="ddp", workers=64, shards=1, micro_items=1, recompute=True)
DDP = Layout(strategy="ddp", workers=8, shards=1, micro_items=2, recompute=False)
EIGHT = MachineType(gpu="own", gpus=8, bf16_tflops=100, usable_gib=1)


def machine(usable_gib: float) -> MachineType:
    return replace(EIGHT, usable_gib=(usable_gib + 1.5) / 0.93)  # what context and fragmentation take away


def facts_for(_layout: Layout) -> CostFacts:
    return facts()


def test_parts_of_ddp_by_hand() -> None:
    parts = memory(facts(), DDP)
    assert parts.weights == 6 * GIB
    assert parts.gradients == 4 * GIB
    assert parts.optimizer == 8 * GIB
    assert parts.live_units == 3 * GIB  # bf16 copies
    assert parts.activations == 16 * GIB
    assert parts.scores == GIB / 4
    assert parts.buffers == 0  # gradients are views of the buckets


def test_parts_of_fsdp2_by_hand() -> None:
    """The layers are eight units; the frozen part is none, so it is gathered as a whole."""
    parts = memory(facts(), Layout(strategy="fsdp2", workers=8, shards=8, micro_items=2, recompute=False))
    assert parts.weights == (2 * GIB + 4 * GIB / 2) / 8
    assert parts.gradients == 2 * GIB / 8
    assert parts.optimizer == 12 * GIB / 8
    assert parts.live_units == 6 * GIB / 8 + 4 * GIB / 2
    assert parts.buffers == 0  # nothing outside the units trains


def test_frozen_matrices_and_moments_in_bf16_take_half() -> None:
    """The frozen part has 0.5 Gi parameters, the trained one 1 Gi."""
    halved = replace(facts(), moment_bytes=2, parts=tuple(replace(part, frozen_bytes=2) for part in facts().parts))
    parts = memory(halved, DDP)
    assert parts.weights == 5 * GIB
    assert parts.optimizer == 4 * GIB
    assert parts.live_units == 2 * GIB  # of what is in fp32
    parts = memory(halved, Layout(strategy="fsdp2", workers=8, shards=8, micro_items=2, recompute=False))
    assert parts.weights == (2 * GIB + 2 * GIB / 2) / 8
    assert parts.optimizer == (12 - 4) * GIB / 8
    assert parts.live_units == 6 * GIB / 8 + 2 * GIB / 2


def test_recomputation_keeps_the_borders_and_one_unit() -> None:
    sharded = Layout(strategy="fsdp2", workers=8, shards=8, micro_items=2, recompute=True)
    assert memory(facts(), sharded).activations == 3 * GIB


def test_fp32_has_no_copies() -> None:
    assert memory(facts(precision="fp32"), DDP).live_units == 0


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp2"])
def test_sharded_strategies_need_less(strategy: str) -> None:
    sharded = Layout(strategy=strategy, workers=8, shards=8, micro_items=2, recompute=False)  # type: ignore[arg-type]
    assert memory(facts(), sharded).total < memory(facts(), DDP).total


def test_the_smallest_change_comes_first() -> None:
    """States and copies are 21 GiB, or 5 in shards; activations 16, recomputed 3, of one item 8 or 1.5."""
    strategies = ("ddp", "fsdp2")
    by_itself = ", which running out of memory makes by itself"
    assert judge(facts_for, DDP, accelerators(machine(38)), strategies).fits
    for usable, change in (
        (25, "checkpoint_activations: true"),
        (23, f"checkpoint_activations: true, micro-batches of 1{by_itself}"),
        (22, "strategy: fsdp2"),
        (9, "strategy: fsdp2, checkpoint_activations: true"),
        (7, f"strategy: fsdp2, checkpoint_activations: true, micro-batches of 1{by_itself}"),
    ):
        verdict = judge(facts_for, DDP, accelerators(machine(usable)), strategies)
        assert (verdict.fits, verdict.change_text) == (False, change)
        assert verdict.change is not None
        assert memory(facts(), verdict.change).total <= verdict.usable


def test_nothing_is_said_where_nothing_helps() -> None:
    verdict = judge(facts_for, DDP, accelerators(machine(2)), ("ddp", "fsdp2"))
    assert (verdict.fits, verdict.change, verdict.change_text) == (False, None, "")


def test_a_node_is_tried_before_all_nodes() -> None:
    many = replace(DDP, workers=32)
    verdict = judge(facts_for, many, accelerators(replace(machine(22), nodes=4)), ("ddp", "fsdp2"))
    assert verdict.change_text == "strategy: fsdp2, shard_workers: 8"


def test_uneven_meshes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 shards do not divide 8 workers"):
        Layout(strategy="fsdp2", workers=8, shards=3, micro_items=1, recompute=False)


def test_published_recipes_need_what_was_computed_on_their_real_modules() -> None:
    """Source: fake tensors of the real modules: 63.9 GiB and 152.9 GiB, and about 6 GiB more in the last stage.

    Those have frozen parts in fp32.
    """
    layout = Layout(strategy="ddp", workers=64, shards=1, micro_items=1, recompute=True)
    for name, stage_id, gib in (
        ("illume_plus_3b", "stage_2", 63.9),
        ("illume_plus_7b", "stage_2", 152.9),
        ("illume_plus_3b", "stage_3", 70.0),
    ):
        found = published.facts(name, stage_id)
        in_fp32 = replace(found, parts=tuple(replace(part, frozen_bytes=4) for part in found.parts))
        assert memory(in_fp32, layout).total / GIB == pytest.approx(gib, rel=0.03)
        frozen = found.parameters - found.trained_parameters
        assert memory(in_fp32, layout).total - memory(found, layout).total == 4 * frozen  # no copies of them either


def test_the_table_in_the_readme_of_the_stages_is_what_is_computed() -> None:
    """On 64 workers; "once" and what is no stage of both sizes is left out."""
    lines = (published.RECIPES.parent / "README.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith(("| both |", "| 3b |", "| 7b |"))
    ]
    rows = [row for row in rows if len(row) == 10]  # not those of other tables
    assert len(rows) == 13
    for recipe, stage_id, *cells in rows:
        for size in ("3b", "7b") if recipe == "both" else (recipe,):
            facts = published.facts(f"illume_plus_{size}", stage_id)
            found = [
                memory(
                    facts, replace(PUBLISHED, strategy=strategy, shards=shards, micro_items=facts.items_per_micro_batch)
                ).total
                / GIB
                for strategy, shards in (("ddp", 1), ("fsdp2", 64), ("zero1", 64), ("zero2", 64), ("zero3", 64))
            ]
            assert [float(cell) for cell in cells[:5]] == pytest.approx(found, abs=0.06), (size, stage_id)
            saved = 12 * facts.trained_parameters / 1e9  # weights and both moments of Adam in fp32
            assert [float(cell) for cell in cells[6:]] == pytest.approx([saved, saved / 64], abs=0.06), (size, stage_id)


def test_kept_bytes_of_other_sizes_follow_the_reference(shared: Path) -> None:
    """The reference keeps its residual stream in bf16 (20 bytes a channel), ours in fp32 (32 bytes): see `cost.py`."""
    from models.mllm.config import TextModelConfig
    from models.mllm.cost import language_cost

    rows = json.loads((shared / "reference" / "planner" / "activation_probe_hf_qwen2.json").read_text())
    for row in (row for row in rows if row["attn"] == "sdpa"):
        text = TextModelConfig(
            hidden_size=row["h"],
            intermediate_size=row["f"],
            num_layers=1,
            num_heads=row["heads"],
            num_key_value_heads=row["kv_heads"],
            tie_embeddings=True,
        )
        kept = language_cost(text, rows=100, tokens=row["seq"]).layer.saved_bytes / row["seq"]
        assert kept - 12 * row["h"] == row["measured_bytes_per_token_layer"]
