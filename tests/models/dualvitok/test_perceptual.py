import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.dualvitok.perceptual import Lpips, gradient_distance, load_lpips
from models.strict_weights import WeightsError


def formula_lpips() -> Lpips:
    """LPIPS with the weights of the vectors' formula."""
    model = Lpips()
    for order, (name, parameter) in enumerate(model.named_parameters()):
        value = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + 1.3 * order)
        if parameter.ndim == 4 and "lin" not in name:
            value *= math.sqrt(2.0) * math.sqrt(2.0 / parameter[0].numel())
        elif parameter.ndim == 1:
            value *= 0.05
        else:
            value = 0.5 * (1 + value) / parameter.shape[1]
        parameter.data.copy_(value.float().view_as(parameter))
    return model


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    return formula_lpips()


def test_lpips_equals_the_golden_distances(
    lpips: Lpips, golden_extra: tuple[dict[str, Any], dict[str, Tensor]], formula_images: Any
) -> None:
    facts = golden_extra[0]["lpips"]
    assert [[name, list(value.shape)] for name, value in lpips.named_parameters()] == facts["params"]
    for case in facts["cases"]:
        first, second = (formula_images(case["h"], case["w"], [case[name]]) for name in ("k_a", "k_b"))
        assert lpips(first, second).item() == pytest.approx(case["value"], rel=1e-4, abs=1e-8)


def test_weights_load_from_one_file_or_from_torchvision_and_lpips(lpips: Lpips, tmp_path: Path) -> None:
    tensors = {name: value.contiguous() for name, value in lpips.state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "all.safetensors")
    network = {"features." + name.split(".", 2)[2]: value for name, value in tensors.items() if name.startswith("net.")}
    torch.save(network | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    torch.save({name: value for name, value in tensors.items() if name.startswith("lin")}, tmp_path / "vgg.pth")
    images = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    expected = lpips(*images)
    assert torch.equal(load_lpips([tmp_path / "all.safetensors"])(*images), expected)
    assert torch.equal(load_lpips([tmp_path / "vgg16.pth", tmp_path / "vgg.pth"])(*images), expected)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="name the files of VGG16"):
        load_lpips([])
    with pytest.raises(WeightsError, match="no such file"):
        load_lpips([tmp_path / "absent.pth"])
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "vgg.pth")
    with pytest.raises(WeightsError, match="missing: 30"):
        load_lpips([tmp_path / "vgg.pth"])


def test_the_gradient_distance_sees_edges_and_ignores_flat_shifts() -> None:
    flat = torch.zeros(1, 3, 16, 16)
    edge = flat.clone()
    edge[..., 8:] = 1
    assert gradient_distance(flat, flat + 0.5).item() == 0.0
    assert gradient_distance(flat, edge).item() > 0.0
