import pytest
import torch
from torch import nn

from models.strict_weights import WeightsError, load_strictly


def two_layers() -> nn.Module:
    return nn.ModuleDict({"first": nn.Linear(2, 3), "second": nn.Linear(3, 1)})


def test_matching_weights_become_the_parameters_even_of_a_meta_module() -> None:
    source = two_layers()
    with torch.device("meta"):
        model = two_layers()
    load_strictly(model, source.state_dict(), where="file")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))


def test_all_differences_are_listed_by_module_and_nothing_is_loaded() -> None:
    model = two_layers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: torch.ones_like(value) for name, value in before.items()}
    del tensors["first.bias"]
    tensors["third.weight"] = torch.zeros(1)
    tensors["second.weight"] = torch.zeros(2, 3)
    with pytest.raises(WeightsError) as caught:
        load_strictly(model, tensors, where="model.safetensors")
    message = str(caught.value)
    assert "model.safetensors: does not fit the model (4 tensors expected); nothing was loaded." in message
    assert "missing: 1\n    first (1): first.bias" in message
    assert "unexpected: 1\n    third (1): third.weight" in message
    assert "second (1): second.weight [2, 3] instead of [1, 3]" in message
    assert "What to do" in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
