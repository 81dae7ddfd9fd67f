from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.check.formulas import fill_lpips
from models.dualvitok.perceptual import Lpips, gradient_distance, load_lpips
from models.strict_weights import WeightsError


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    model = Lpips()
    fill_lpips(model)
    return model


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
