"""Which parameters train in which phase, and refusals."""

from dataclasses import replace

import pytest
import torch

from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.phases import PHASES, PhaseError, Rule, assign_groups, check_phase, find_phase, parameter_groups
from models.mllm.weights import empty_model, to_published
from tests.models.mllm.conftest import make_config


def _sizes(model: UnifiedMllm) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_stage_1_of_3b_has_no_gradient_for_text_rows() -> None:
    model = empty_model(MllmConfig.published_3b(), with_vision=True)
    groups = parameter_groups(model, PHASES["stage1"])
    assert {group["name"]: group["lr"] for group in groups} == {
        "adapter": 1e-3,
        "adapter (no decay)": 1e-3,
        "image_tokens": 2e-4,
    }
    # 131,111 image tokens and the 271 unused rows after them, and the projector
    assert _sizes(model) == (131_111 + 271) * 2048 + 15_802_368


def test_every_phase_gives_each_group_its_own_rate(model: UnifiedMllm) -> None:
    for name, phase in PHASES.items():
        groups = parameter_groups(model, phase, weight_decay=0.1)
        assert {group["name"].split(" ")[0]: group["lr"] for group in groups} == dict(phase.learning_rates), name
        assert sum(parameter.numel() for group in groups for parameter in group["params"]) == _sizes(model)
        assert all((group["weight_decay"] == 0) == ("no decay" in group["name"]) for group in groups)
        assert all(parameter.ndim > 1 for group in groups if group["weight_decay"] for parameter in group["params"])


def test_frozen_parts_do_not_change_when_a_phase_trains(model: UnifiedMllm) -> None:
    groups = parameter_groups(model, PHASES["stage1"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.optim.AdamW(groups).step()
    loss = sum((parameter**2).sum() for group in groups for parameter in group["params"])
    loss.backward()
    torch.optim.AdamW(groups).step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {"embedding.vision", "head.vision"} & before.keys()
    assert changed == expected | {name for name in before if name.startswith("projector.")}


def test_a_parameter_without_a_rule_or_with_two_is_refused(model: UnifiedMllm) -> None:
    names = [*dict(model.named_parameters()), "surprise.weight"]
    with pytest.raises(PhaseError, match=r"but 1 do not:\n  surprise.weight: 0 rules"):
        assign_groups(names, PHASES["stage1"])
    doubled = replace(PHASES["stage1"], rules=(*PHASES["stage1"].rules, Rule(pattern="embedding\\..+", group="x")))
    with pytest.raises(PhaseError, match=r"but 2 do not:\n  embedding.text: 2 rules, "):
        parameter_groups(model, doubled)


def test_learning_rates_must_name_exactly_the_groups(model: UnifiedMllm) -> None:
    with pytest.raises(PhaseError, match="found adapter, expected exactly adapter, image_tokens"):
        parameter_groups(model, PHASES["stage1"], learning_rates={"adapter": 1e-3})
    groups = parameter_groups(model, PHASES["stage1"], learning_rates={"adapter": 1.0, "image_tokens": 2.0})
    assert {group["lr"] for group in groups} == {1.0, 2.0}


def test_a_phase_is_checked_before_any_weights_exist() -> None:
    check_phase(make_config(), "stage3", with_vision=True)
    check_phase(make_config(), "stage2", with_vision=False)
    with pytest.raises(PhaseError, match="trains vision, but this model has no such part"):
        check_phase(make_config(), "stage3", with_vision=False)
    with pytest.raises(PhaseError, match=r"no 'stage4'; there are stage1, stage2, stage2\.5, stage3"):
        find_phase("stage4")


def test_published_names_cover_the_model() -> None:
    model = empty_model(make_config(), with_vision=True)
    assert all(name.startswith(("model.", "lm_head.")) for name in to_published(model.state_dict()))
