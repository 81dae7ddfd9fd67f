from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from models.dualvitok.config import DiscriminatorConfig, LossConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss, hinge_discriminator_loss, psnr_db
from models.dualvitok.model import DualViTok
from models.strict_weights import WeightsError, load_strictly

if TYPE_CHECKING:
    from tests.models.dualvitok.conftest import Golden

Extra = tuple[dict[str, Any], dict[str, Tensor]]


def test_three_training_steps_equal_the_golden_ones(golden: "Golden", golden_extra: Extra) -> None:
    facts = golden_extra[0]["train"]
    # The vectors were made without noise, though their configuration has it; evaluation mode changes nothing else.
    model, images = golden.model().eval(), golden.images("r96x160")
    loss = TokenizerLoss(LossConfig(perceptual="none"))
    optimizer = torch.optim.Adam(model.trainable_parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
    for step, expected in enumerate(facts["steps"]):
        total, terms = loss.generator(images, model.training_step_outputs(images), step)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            check_gradient_norms(model, facts["grad_norms_step0"])
        norm = torch.nn.utils.clip_grad_norm_(model.trainable_parameters(), 1.0)
        optimizer.step()
        assert norm.item() == pytest.approx(expected["grad_norm_before_clip"], rel=1e-4)
        for ours, theirs in (("total", "total"), ("pixel", "rec_l2"), ("semantic_cosine", "semantic_cos")):
            assert terms[ours].item() == pytest.approx(expected[theirs], rel=1e-4)
        for name in ("pixel_codebook", "semantic_codebook"):
            assert terms[name].item() == pytest.approx(expected[name], rel=1e-4)
    for name, sums in facts["params_after_3_steps"].items():
        value = model.get_parameter(name).detach().double()
        assert value.sum().item() == pytest.approx(sums["sum"], abs=1e-4)
        assert value.abs().sum().item() == pytest.approx(sums["abs_sum"], rel=1e-5)


def check_gradient_norms(model: DualViTok, expected: dict[str, float | None]) -> None:
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # Gradients that vanish in exact arithmetic (biases of keys) are noise of about 1e-8.
            assert parameter.grad.norm().item() == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name


@pytest.fixture
def judge(golden_extra: Extra) -> PatchGan:
    facts, tensors = golden_extra
    sizes = facts["discriminator"]
    discriminator = PatchGan(DiscriminatorConfig(channels=sizes["ndf"], layers=sizes["n_layers"])).train()
    weights = {name[5:]: value for name, value in tensors.items() if name.startswith("disc/")}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    load_strictly(discriminator, weights, where="golden_public_extra.safetensors")
    return discriminator


def test_the_discriminator_equals_the_golden_one(golden: "Golden", golden_extra: Extra, judge: PatchGan) -> None:
    facts, tensors = golden_extra
    images = golden.images("r96x160")
    with torch.no_grad():
        found = golden.model()(images).images_BCYX
        real_logits, found_logits = judge(images), judge(found)
    torch.testing.assert_close(real_logits, tensors["gan/logits_real_train"], atol=5e-4, rtol=0)
    torch.testing.assert_close(found_logits, tensors["gan/logits_fake_train"], atol=5e-4, rtol=0)
    assert hinge_discriminator_loss(real_logits, found_logits).item() == pytest.approx(
        facts["gan"]["hinge_d"], rel=1e-4
    )


@pytest.mark.parametrize("published_step", [1, 19_999, 20_000, 20_001])
def test_adversarial_losses_start_on_the_published_step(
    golden: "Golden", golden_extra: Extra, judge: PatchGan, published_step: int
) -> None:
    expected = golden_extra[0]["gan"][f"global_step_{published_step}"]
    images, model = golden.images("r96x160"), golden.model()
    loss = TokenizerLoss(LossConfig(perceptual="none", codebook_weight=0.0, semantic_weight=0.0))
    with torch.no_grad():
        outputs = model(images)
        total, _ = loss.generator(images, outputs, published_step - 1, judge)
        judged, _ = loss.discriminator(images, outputs.images_BCYX, published_step - 1, judge)
    # The vector adds a code-book loss of 0.25.
    assert total.item() + 0.25 == pytest.approx(expected["g_total_with_codebook_0p25"], rel=1e-4)
    assert judged.item() == pytest.approx(expected["d_loss"], rel=1e-4)


def test_the_discriminator_gives_no_gradient_to_the_generator(tiny_model: DualViTok) -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    outputs = tiny_model.train()(images)
    loss = TokenizerLoss(LossConfig(perceptual="none", adversarial_start_step=1))
    judge = PatchGan(DiscriminatorConfig(channels=4, layers=2))
    total, _ = loss.discriminator(images, outputs.images_BCYX, 0, judge)
    total.backward()
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_lpips_without_weights_is_refused_before_training() -> None:
    with pytest.raises(WeightsError, match="choose perceptual: gradients or none"):
        TokenizerLoss(LossConfig())


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 3, 8, 8)
    assert psnr_db(images, images + 0.2).item() == pytest.approx(20.0, abs=1e-4)


def test_a_tiny_tokenizer_learns_one_picture(tiny_model: DualViTok) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4, generator=generator) * 2 - 1, size=(32, 32))
    loss = TokenizerLoss(LossConfig(perceptual="gradients", perceptual_weight=0.2))
    optimizer = torch.optim.Adam(tiny_model.train().trainable_parameters(), lr=2e-3)
    values = []
    for step in range(25):
        total, terms = loss.generator(images, tiny_model(images, generator), step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(terms["psnr_db"].item())
    assert values[-1] > values[0] + 3
