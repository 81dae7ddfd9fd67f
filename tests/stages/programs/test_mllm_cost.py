import pytest
import torch

from clusters.planner.memory import Layout, memory
from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.phases import PHASES, parameter_groups
from models.mllm.vision import VisionBranch
from orchestrator.cost import ConfigTree, UnknownCostError
from stages.programs.mllm_config import MllmExecution
from stages.programs.mllm_cost import mllm_cost
from tests.stages.programs.published import facts, recipe, tree

STAGES = {"stage1": "stage_1", "stage2": "stage_2", "stage2.5": "stage_2_5", "stage3": "stage_3"}


@pytest.mark.parametrize(
    ("name", "config"), [("illume_plus_3b", MllmConfig.published_3b()), ("illume_plus_7b", MllmConfig.published_7b())]
)
def test_parameters_are_those_that_each_phase_trains(name: str, config: MllmConfig) -> None:
    with torch.device("meta"):
        model = UnifiedMllm(config, VisionBranch(config.vision))
    for phase, stage_id in STAGES.items():
        groups = parameter_groups(model, PHASES[phase])
        trained = sum(parameter.numel() for group in groups for parameter in group["params"])
        found = facts(name, stage_id)
        assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert found.trained_parameters == trained


def test_gradients_pass_frozen_layers_in_the_first_stage() -> None:
    passes = {part.name: part.training_passes for part in facts("illume_plus_3b", "stage_1").parts}
    assert passes["language layers"] == 2.0
    assert 2.0 < passes["token table"] < 3.0  # the rows of image tokens train
    assert passes["vision tower, upper half"] == 1.0


def test_the_index_of_rows_is_estimated_from_the_mixture_and_says_so() -> None:
    found = facts("illume_plus_3b", "stage_2")
    assert 6 < found.samples_per_item < 10  # images of 256 px and some text
    assert any("samples" in sentence for sentence in found.assumptions)
    larger = facts("illume_plus_3b", "stage_2", "stages.stage_2.config.data.max_pixels=262144")
    assert larger.samples_per_item < found.samples_per_item / 2


def test_recompute_follows_execution() -> None:
    found = recipe("illume_plus_3b")
    for recompute in (False, True):
        execution = MllmExecution(checkpoint_activations=recompute)
        assert mllm_cost(tree(found, "stage_1"), execution).recompute is recompute


def test_workers_that_share_rows_hold_a_part_of_what_is_kept_and_compute_as_much_together() -> None:
    found = tree(recipe("illume_plus_3b"), "stage_2")
    whole = mllm_cost(found, MllmExecution(checkpoint_activations=True))
    part = mllm_cost(found, MllmExecution(checkpoint_activations=True, sequence_workers=4))
    assert part.item == f"1/4 of a {whole.item}"
    for amount in ("training_flops", "recomputed_flops", "tokens_per_item", "samples_per_item"):
        assert getattr(part, amount) * part.items_per_step == pytest.approx(
            getattr(whole, amount) * whole.items_per_step
        )
    layout = Layout(strategy="fsdp2", workers=64, shards=64, micro_items=1, recompute=True)
    of_whole, of_part = memory(whole, layout), memory(part, layout)
    assert of_part.activations == pytest.approx(of_whole.activations / 4)
    assert (of_part.weights, of_part.optimizer) == (of_whole.weights, of_whole.optimizer)


def test_a_model_from_elsewhere_is_unknown() -> None:
    found = tree(recipe("illume_plus_3b"), "stage_2")
    adopted = ConfigTree(config=found.config, inputs={**found.inputs, "start": (ConfigTree(config=None, inputs={}),)})
    with pytest.raises(UnknownCostError, match="sizes are in its files"):
        mllm_cost(adopted, MllmExecution())
