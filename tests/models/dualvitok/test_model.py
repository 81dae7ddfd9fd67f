from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dualvitok import geometry
from models.dualvitok.losses import cosine_distance
from models.dualvitok.model import Codes, DualViTok, semantic_map
from models.dualvitok.vision_tower import images_to_patches

if TYPE_CHECKING:
    from tests.models.dualvitok.conftest import Golden

CASES = ("sq256", "r96x160", "r160x112", "r384x576")
ATOL = {
    "patches_rows": 2e-5,
    "vit_out": 2e-5,
    "h_semantic": 5e-5,
    "h_pixel": 5e-5,
    "pixel_encoder_out": 1e-4,
    "target_semantic": 1e-4,
    "merged": 1e-5,
    "dec_semantic": 2e-4,
}
DECODED: dict[str, Callable[[Tensor, str], Tensor]] = {
    "decoded_s4": lambda images, case: images[:1, :, ::4, ::4],
    "decoded_s8": lambda images, case: images[:, :, ::8, ::8],
    "decoded_img0": lambda images, case: images[0, :, ::2, ::2],
    "decoded_crop": lambda images, case: images[:, :, 8:40, 16:48] if case == "r96x160" else images[:, :, 64:96, 64:96],
}


def intermediate_tensors(model: DualViTok, images: Tensor) -> dict[str, Tensor]:
    """What the golden file stores, by its names."""
    outputs = model(images)
    patches, _ = images_to_patches(images, model.config.vision)
    latents, target = model._semantic_latents(images)
    return {
        "patches_rows": patches.flatten(0, 1)[[0, 1, patches.shape[:2].numel() // 2]],
        "vit_out": model.features(images).semantic_BTD.flatten(0, 1),
        "h_semantic": latents,
        "h_pixel": model._pixel_latents(images),
        "pixel_encoder_out": model.pixel_encoder(images),
        "target_semantic": semantic_map(target, images),
        "merged": model.code_features(outputs.codes),
        "dec_semantic": semantic_map(outputs.semantic_BTD, images),
    }


@pytest.mark.parametrize("case", CASES)
def test_everything_equals_the_golden_vectors(golden: "Golden", case: str) -> None:
    model, images, stored = golden.model(), golden.images(case), golden.tensors
    with torch.no_grad():
        codes = model.encode(images)
        found = intermediate_tensors(model, images)
        outputs, decoded = model(images), model.decode(codes)
    for name, grid in (("semantic", codes.semantic_BYX), ("pixel", codes.pixel_BYX)):
        decided = stored[f"{case}/{name}_margin"] >= 1e-4
        assert torch.equal(grid[decided], stored[f"{case}/{name}_indices"].long()[decided])
    for name, atol in ATOL.items():
        if f"{case}/{name}" in stored:
            torch.testing.assert_close(found[name], stored[f"{case}/{name}"], atol=atol, rtol=0, msg=name)
    for name, part in DECODED.items():
        if f"{case}/{name}" in stored:
            for images_found in (decoded, outputs.images_BCYX):
                torch.testing.assert_close(part(images_found, case), stored[f"{case}/{name}"], atol=5e-4, rtol=0)
    scalars = {
        "semantic_commit_loss": outputs.semantic_codebook_loss,
        "pixel_commit_loss": outputs.pixel_codebook_loss,
        "semantic_cos_loss": cosine_distance(outputs.semantic_target_BTD, outputs.semantic_BTD),
        "rec_l2": F.mse_loss(outputs.images_BCYX, images),
    }
    for name, value in scalars.items():
        assert value.item() == pytest.approx(golden.facts["cases"][case]["scalars"][name], rel=1e-4)


def test_names_of_the_state_dict_keep_the_published_order(golden: "Golden") -> None:
    assert list(golden.model().state_dict()) == golden.facts["order_of_state_dict"]


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
    """The published code fails here: its quantizer compares fp32 latents with half-precision code books."""
    images = golden.images("sq256")
    exact = golden.model().encode(images)
    found = golden.model().to(dtype).encode(images.to(dtype))
    for grid, expected in ((found.semantic_BYX, exact.semantic_BYX), (found.pixel_BYX, exact.pixel_BYX)):
        assert (grid != expected).float().mean() < (0.1 if dtype == torch.bfloat16 else 0.02)


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
def test_unfit_images_are_refused(tiny_model: DualViTok, images: Any, message: str) -> None:
    for call in (tiny_model.encode, tiny_model.features, tiny_model):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_codes_outside_the_code_books_are_refused(tiny_model: DualViTok) -> None:
    codes = Codes(semantic_BYX=torch.full((1, 2, 2), 32), pixel_BYX=torch.zeros(1, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="the code book has 0 to 31"):
        tiny_model.decode(codes)
