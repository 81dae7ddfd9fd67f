from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from models.metrics.inception import InceptionFeatures, load_inception, resize_like_tensorflow
from models.strict_weights import WeightsError


@pytest.fixture(scope="module")
def model() -> InceptionFeatures:
    torch.manual_seed(0)
    return InceptionFeatures()


def test_it_has_the_published_layout(model: InceptionFeatures) -> None:
    """94 convolutions with batch norm; 21,785,568 parameters without the classifier (torchvision has the same)."""
    state = model.state_dict()
    assert sum(name.endswith("conv.weight") for name in state) == 94
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_785_568
    assert list(state["Mixed_6c.branch7x7dbl_4.conv.weight"].shape) == [160, 160, 7, 1]
    assert list(state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape) == [384, 384, 3, 1]


def test_features_are_finite_for_any_size(model: InceptionFeatures) -> None:
    for size in ((64, 64), (300, 200)):
        features = model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
        assert features.shape == (1, 2048)
        assert torch.isfinite(features).all()
    with pytest.raises(ValueError, match="expected uint8"):
        model(torch.zeros(1, 3, 64, 64))


def test_the_resize_takes_pixel_i_from_i_times_the_scale() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert resize_like_tensorflow(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    same = torch.rand(1, 3, 16, 16)
    assert torch.equal(resize_like_tensorflow(same, 16), same)
    aligned = F.interpolate(same, size=(31, 31), mode="bilinear", align_corners=True)
    assert not torch.allclose(resize_like_tensorflow(same, 31), aligned)


def test_weights_load_strictly_and_without_the_classifier(model: InceptionFeatures, tmp_path: Path) -> None:
    tensors = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(tensors | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, tmp_path / "fid.pth")
    images = torch.randint(0, 256, (1, 3, 80, 80), dtype=torch.uint8)
    assert torch.equal(load_inception(tmp_path / "fid.pth")(images), model(images))
    del tensors["Mixed_6a.branch3x3.conv.weight"]
    save_file(tensors, tmp_path / "fid.safetensors")
    with pytest.raises(WeightsError, match=r"missing: 1\n    Mixed_6a"):
        load_inception(tmp_path / "fid.safetensors")
    with pytest.raises(WeightsError, match="expected the Inception weights of 2015-12-05"):
        load_inception(tmp_path / "none.pth")
