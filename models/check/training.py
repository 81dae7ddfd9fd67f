"""Losses and training of the tokenizer: optimizer steps, adversarial losses, noise, LPIPS.

Steps and adversarial losses need the weights of the DualViTok file that the vectors were made with.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from models.check.formulas import fill_lpips, formula_images
from models.check.report import Report, Vectors, with_prefix
from models.check.tokenizer import build_tokenizer
from models.dualvitok.config import DiscriminatorConfig, LossConfig, NoiseConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss, hinge_discriminator_loss
from models.dualvitok.model import DualViTok
from models.dualvitok.noise import perturb
from models.dualvitok.perceptual import Lpips
from models.strict_weights import load_strictly

_RTOL = 1e-4
_GRADIENT_RTOL = 1e-3
_GRADIENT_ATOL = 1e-6  # gradients that vanish in exact arithmetic (biases of keys) are noise of about 1e-8
_LOGITS_ATOL = 5e-4
_CODEBOOK_LOSS = 0.25  # what the adversarial vectors add to the generator's loss
_STEP_TERMS = {
    "total": "total",
    "rec_l2": "pixel",
    "pixel_codebook": "pixel_codebook",
    "semantic_codebook": "semantic_codebook",
    "semantic_cos": "semantic_cosine",
}


def check_training(vectors: Vectors, base: Vectors, report: Report) -> None:
    """The tokenizer's part of an extra file; `base` is the DualViTok file with its weights."""
    sections: Mapping[str, Callable[[Vectors, Vectors, Report], None]] = {
        "train": _check_steps,
        "gan": _check_adversary,
        "noise": _check_noise,
        "lpips": _check_lpips,
    }
    for name, check in sections.items():
        if name in vectors.facts:
            check(vectors, base, report)


def _training_images(vectors: Vectors) -> Tensor:
    images = vectors.facts["train"]["images"]
    return formula_images(images["h"], images["w"], images["k"])


def _check_steps(vectors: Vectors, base: Vectors, report: Report) -> None:
    facts = vectors.facts["train"]
    # The vectors were made without noise, though their configuration may have it; evaluation mode changes nothing else.
    model, images = build_tokenizer(base), _training_images(vectors)
    loss = TokenizerLoss(LossConfig(perceptual="none"))
    optimizer = torch.optim.Adam(model.trainable_parameters(), **_adam(facts["optimizer"]))
    clip = re.search(r"clip_grad_norm ([\d.e-]+)", facts["optimizer"])
    for number, expected in enumerate(facts["steps"]):
        total, terms = loss.generator(images, model.training_step_outputs(images), number)
        optimizer.zero_grad()
        total.backward()
        if number == 0:
            _check_gradients(model, facts["grad_norms_step0"], report)
        norm = torch.nn.utils.clip_grad_norm_(model.trainable_parameters(), float(clip[1]) if clip else torch.inf)
        optimizer.step()
        values = {name: terms[ours] for name, ours in _STEP_TERMS.items()}
        values["semantic_loss"] = terms["semantic_codebook"] + terms["semantic_cosine"]
        values["grad_norm_before_clip"] = norm
        for name, value in expected.items():
            if name in values:
                report.expect_number(f"train/step {number}/{name}", values[name], value, rtol=_RTOL)
    for key in (key for key in facts if re.fullmatch(r"params_after_\d+_steps", key)):
        for name, sums in facts[key].items():
            value = model.get_parameter(name).detach().double()
            scale = float(value.abs().sum())
            report.expect_number(f"train/{key}/{name} sum", value.sum(), sums["sum"], rtol=0, atol=1e-5 * scale)
            report.expect_number(f"train/{key}/{name} abs_sum", scale, sums["abs_sum"], rtol=1e-5)


def _adam(text: str) -> dict[str, Any]:
    """Arguments of Adam from, for example, `Adam lr 1e-4 betas (0.9,0.95) eps 1e-8, ...`."""
    match = re.search(r"Adam lr ([\d.e-]+) betas \(([\d.]+), ?([\d.]+)\) eps ([\d.e-]+)", text)
    if match is None:
        raise ValueError(f"train.optimizer: found {text!r}, expected 'Adam lr .. betas (..,..) eps ..'")
    return {"lr": float(match[1]), "betas": (float(match[2]), float(match[3])), "eps": float(match[4])}


def _check_gradients(model: DualViTok, expected: Mapping[str, float | None], report: Report) -> None:
    parameters = dict(model.named_parameters())
    report.expect_equal("train/names of parameters", sorted(parameters), sorted(expected))
    for name, norm in expected.items():
        gradient = parameters[name].grad if name in parameters else None
        if norm is None or gradient is None:
            report.expect_equal(f"train/gradient of {name}", gradient is None, norm is None, "equal (no gradient)")
        else:
            report.expect_number(
                f"train/gradient of {name}", gradient.norm(), norm, rtol=_GRADIENT_RTOL, atol=_GRADIENT_ATOL
            )


def _discriminator(vectors: Vectors) -> PatchGan:
    sizes = vectors.facts["discriminator"]
    model = PatchGan(DiscriminatorConfig(channels=sizes["ndf"], layers=sizes["n_layers"])).train()
    load_strictly(model, with_prefix(vectors.tensors, "disc/"), where=vectors.where)
    return model


def _check_adversary(vectors: Vectors, base: Vectors, report: Report) -> None:
    facts, tensors = vectors.facts["gan"], vectors.tensors
    model, images, discriminator = build_tokenizer(base), _training_images(vectors), _discriminator(vectors)
    with torch.no_grad():
        outputs = model(images)
        real, found = discriminator(images), discriminator(outputs.images_BCYX)
        report.expect_tensor("gan/logits_real_train", real, tensors["gan/logits_real_train"], _LOGITS_ATOL)
        report.expect_tensor("gan/logits_fake_train", found, tensors["gan/logits_fake_train"], _LOGITS_ATOL)
        report.expect_number("gan/hinge_d", hinge_discriminator_loss(real, found), facts["hinge_d"], rtol=_RTOL)
        report.expect_number("gan/hinge_g", -found.mean(), facts["hinge_g"], rtol=_RTOL)
        loss = TokenizerLoss(LossConfig(perceptual="none", codebook_weight=0.0, semantic_weight=0.0))
        for name, expected in facts.items():
            step = re.fullmatch(r"global_step_(\d+)", name)
            if step is None:
                continue
            total, _ = loss.generator(images, outputs, int(step[1]) - 1, discriminator)
            discriminator_loss, _ = loss.discriminator(images, outputs.images_BCYX, int(step[1]) - 1, discriminator)
            generator = expected["g_total_with_codebook_0p25"]
            report.expect_number(f"gan/{name}/generator", float(total) + _CODEBOOK_LOSS, generator, rtol=_RTOL)
            report.expect_number(f"gan/{name}/discriminator", discriminator_loss, expected["d_loss"], rtol=_RTOL)


def _check_noise(vectors: Vectors, _: Vectors, report: Report) -> None:
    facts = vectors.facts["noise"]
    rates, pixel = facts["rates"], vectors.tensors["noise/quant_pixel_in"]
    kinds: tuple[Literal["random", "zero"], ...] = ("random", "zero")
    for kind in kinds:
        if f"noise/{kind}_out" not in vectors.tensors:
            continue
        config = NoiseConfig(
            kind=kind, sample_share=rates["pixel_drop_batch_rate"], token_share=rates["pixel_drop_rate"]
        )
        generator = torch.Generator().manual_seed(facts["torch_manual_seed"])
        found = perturb(pixel, config, generator)
        report.expect_tensor(f"noise/{kind}_out", found, vectors.tensors[f"noise/{kind}_out"], 1e-6)


def _check_lpips(vectors: Vectors, _: Vectors, report: Report) -> None:
    facts, model = vectors.facts["lpips"], Lpips()
    report.expect_equal(
        "lpips/params", [[name, list(value.shape)] for name, value in model.named_parameters()], facts["params"]
    )
    fill_lpips(model)
    for case in facts["cases"]:
        first, second = (formula_images(case["h"], case["w"], [case[key]]) for key in ("k_a", "k_b"))
        name = f"lpips/{case['h']}x{case['w']} images {case['k_a']} and {case['k_b']}"
        report.expect_number(name, model(first, second), case["value"], rtol=_RTOL, atol=1e-8)
