from typing import TYPE_CHECKING, Any

import pytest
import torch

from models.dualvitok import geometry
from models.dualvitok.model import Codes, DualViTok

if TYPE_CHECKING:
    from tests.models.dualvitok.conftest import Golden


def test_mixed_sizes_get_the_codes_they_would_get_alone(golden: "Golden") -> None:
    model = golden.model()
    wide, tall = golden.images("r96x160"), golden.images("r160x112")
    found = model.encode_many([wide[0], tall[0], wide[1]])
    for image, codes in zip((wide[:1], tall, wide[1:]), found, strict=True):
        alone = model.encode(image)
        assert torch.equal(codes.semantic_BYX, alone.semantic_BYX)
        assert torch.equal(codes.pixel_BYX, alone.pixel_BYX)


def test_no_images_give_no_codes(tiny_model: DualViTok) -> None:
    assert tiny_model.encode_many([]) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_encodes_nearly_the_same_codes(golden: "Golden", dtype: torch.dtype) -> None:
    """The published code fails here: its quantizer compares fp32 latents with half-precision codebooks."""
    images = golden.images("sq256")
    exact = golden.model().encode(images)
    found = golden.model().to(dtype).encode(images.to(dtype))
    for grid, expected in ((found.semantic_BYX, exact.semantic_BYX), (found.pixel_BYX, exact.pixel_BYX)):
        assert (grid != expected).float().mean() < (0.1 if dtype == torch.bfloat16 else 0.02)


def test_compiled_encoders_give_the_same_codes(tiny_model: DualViTok) -> None:
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = tiny_model.encode(images)
    names = list(tiny_model.state_dict())
    tiny_model.compile_encoders(backend="aot_eager")
    found = tiny_model.encode(images)
    assert torch.equal(found.semantic_BYX, expected.semantic_BYX)
    assert torch.equal(found.pixel_BYX, expected.pixel_BYX)
    assert list(tiny_model.state_dict()) == names  # what is saved does not know of it


def test_only_the_vision_tower_is_frozen(tiny_model: DualViTok) -> None:
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in tiny_model.named_parameters() if name.startswith("semantic_encoder.model.")}
    outputs = tiny_model.train()(torch.rand(2, 3, 32, 48) * 2 - 1)
    (outputs.images_BCYX.sum() + outputs.semantic_BTD.square().sum() + outputs.pixel_codebook_loss).backward()
    without = [name for name, parameter in tiny_model.named_parameters() if parameter.grad is None]
    assert set(without) == frozen | {"semantic_quantizer.code_transform.weight"}


def test_a_factor_of_eight_gives_its_grid_and_size_back(tiny_model: DualViTok) -> None:
    codes = tiny_model.encode(torch.zeros(1, 3, 64, 40))
    assert codes.pixel_BYX.shape == (1, 8, 5)
    assert codes.semantic_BYX.shape == (1, *geometry.semantic_grid(64, 40))
    assert tiny_model.decode(codes).shape == (1, 3, 64, 40)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 60, 64), "sides must be positive multiples of 8"),
        (torch.zeros(3, 64, 64), r"torch.float32 \(3, 64, 64\); expected floats \[B, 3, Y, X\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_unsuitable_images_are_refused(tiny_model: DualViTok, images: Any, message: str) -> None:
    for call in (tiny_model.encode, tiny_model.features, tiny_model):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_codes_outside_the_codebooks_are_refused(tiny_model: DualViTok) -> None:
    codes = Codes(semantic_BYX=torch.full((1, 2, 2), 32), pixel_BYX=torch.zeros(1, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="the codebook has 0 to 31"):
        tiny_model.decode(codes)
