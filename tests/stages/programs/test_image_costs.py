import pytest
import torch

from models.dualvitok.config import DualViTokConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.model import DualViTok
from models.vision_pretraining import ImageTextModel
from orchestrator.cost import ConfigTree, UnknownCostError
from stages.programs.image_costs import anchors_of, tokenizer_config
from tests.stages.programs.published import facts, recipe


def count(module: torch.nn.Module, *, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)


@pytest.mark.parametrize(("name", "stage_id"), [("illume_plus_3b", "tokenizer_256"), ("quickstart", "tokenizer")])
def test_tokenizer_parameters(name: str, stage_id: str) -> None:
    found = facts(name, stage_id)
    config = next(stage for stage in recipe(name).stages if stage.id == stage_id).config
    with torch.device("meta"):
        model, discriminator = DualViTok(config.model), PatchGan(config.discriminator)
    parts = {part.name: part for part in found.parts}
    perceptual = parts.pop("perceptual network", None)
    adversarial = count(discriminator) if "discriminator" in parts else 0
    assert sum(part.parameters for part in parts.values()) == count(model) + adversarial
    assert found.trained_parameters == count(model, trained=True) + adversarial
    assert perceptual is None or perceptual.trained_parameters == 0


def test_the_discriminator_costs_from_its_first_step_on() -> None:
    late, early = facts("illume_plus_3b", "tokenizer_256"), facts("illume_plus_3b", "tokenizer_512")
    passes = [next(part for part in found.parts if part.name == "discriminator") for found in (late, early)]
    assert passes[0].training_passes == pytest.approx(8 * (270_000 - 20_000 + 1) / 270_000)
    assert passes[1].training_passes == 8


def test_several_sizes_cost_their_mean_and_need_memory_for_the_largest() -> None:
    fixed, free = facts("illume_plus_3b", "tokenizer_512"), facts("illume_plus_3b", "tokenizer")
    assert free.training_flops < fixed.training_flops  # most anchors are smaller than 512 x 512
    kept = [sum(part.saved_bytes for part in found.parts) for found in (fixed, free)]
    assert kept[1] > kept[0]  # 960 x 320 is larger


def test_decoder_draws_at_twice_the_size_of_its_dataset() -> None:
    assert facts("illume_plus_3b", "decoder_512").item == "image of 512 x 512 px"
    assert facts("quickstart", "decoder").item.endswith("96 x 96 px")


def test_vision_parameters() -> None:
    config = next(stage for stage in recipe("quickstart").stages if stage.id == "vision").config
    with torch.device("meta"):
        model = ImageTextModel(config.model)
    assert facts("quickstart", "vision").parameters == pytest.approx(count(model), rel=0.01)


def test_unknown_sizes_are_said() -> None:
    with pytest.raises(UnknownCostError, match="anchors"):
        anchors_of(ConfigTree(config=None, inputs={"datasets": (ConfigTree(config=None, inputs={}),)}), "datasets")


def test_an_adopted_tokenizer_is_taken_for_the_published_one() -> None:
    config, sentence = tokenizer_config(ConfigTree(config=object(), inputs={}))
    assert config == DualViTokConfig.published()
    assert "published sizes" in sentence
