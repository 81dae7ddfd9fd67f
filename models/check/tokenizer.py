"""DualViTok: codes, features, reconstructions and losses of the cases of a file, with the weights in the file."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.check.formulas import formula_image, to_input
from models.check.report import Report, Vectors, plain, statistics, with_prefix
from models.dualvitok import geometry
from models.dualvitok.losses import cosine_distance
from models.dualvitok.model import DualViTok, semantic_map
from models.dualvitok.published_config import config_from_published
from models.dualvitok.vision_tower import images_to_patches
from models.strict_weights import WeightsError, load_strictly

# Used where the file states no tolerance.
_ATOL = {
    "patches": 2e-5,
    "vit_out": 2e-5,
    "h_semantic": 5e-5,
    "h_pixel": 5e-5,
    "pixel_encoder_out": 1e-4,
    "target_semantic": 1e-4,
    "quant_semantic": 1e-5,
    "quant_pixel": 1e-5,
    "merged": 1e-5,
    "decoded": 5e-4,
    "dec_semantic": 2e-4,
}
_SCALARS_RTOL = 1e-4
_MIN_MARGIN = 1e-4
_INPUTS = {"input_uint8", "semantic_indices", "pixel_indices", "semantic_margin", "pixel_margin"}
# Of sums over many elements: statistics may be off by this share of the tensor's own scale.
_STATISTICS_RTOL = 1e-4


def build_tokenizer(vectors: Vectors) -> DualViTok:
    """The model of a file's configuration with its weights, in evaluation mode. Raises: WeightsError, ValueError."""
    facts = vectors.facts
    model = DualViTok(config_from_published(facts["vit_config"], facts["model_config"])).eval()
    load_strictly(model, with_prefix(vectors.tensors, "sd/"), where=vectors.where)
    return model


def check_tokenizer(vectors: Vectors, report: Report) -> None:
    """All cases of a file."""
    try:
        model = build_tokenizer(vectors)
    except (WeightsError, ValueError) as error:
        report.fail("weights", str(error))
        return
    report.expect_equal("weights", True, True, f"{len(model.state_dict())} tensors fit exactly")
    if "order_of_state_dict" in vectors.facts:
        report.expect_equal("order_of_state_dict", list(model.state_dict()), vectors.facts["order_of_state_dict"])
    for name, case in vectors.facts["cases"].items():
        _Case(name=name, facts=case, vectors=vectors, model=model, report=report).check()


@dataclass(frozen=True, kw_only=True)
class _Case:
    name: str
    facts: Mapping[str, Any]
    vectors: Vectors
    model: DualViTok
    report: Report

    def check(self) -> None:
        images = self.images()
        with torch.no_grad():
            codes = self.model.encode(images)
            outputs = self.model(images)
            found = _intermediates(self.model, images)
            from_codes = self.model.decode(codes)
        self.check_geometry(images)
        for kind, grid in (("semantic", codes.semantic_BYX), ("pixel", codes.pixel_BYX)):
            self.check_codes(kind, grid)
        self.check_tensors(found)
        self.check_statistics(found)
        difference = torch.zeros_like(from_codes)
        self.report.expect_tensor(
            f"{self.name}/decode(codes)", from_codes - outputs.images_BCYX, difference, self.tolerance("decoded")
        )
        scalars = {
            "semantic_commit_loss": outputs.semantic_codebook_loss,
            "pixel_commit_loss": outputs.pixel_codebook_loss,
            "semantic_cos_loss": cosine_distance(outputs.semantic_target_BTD, outputs.semantic_BTD),
            "rec_l2": F.mse_loss(outputs.images_BCYX, images),
        }
        for name, value in self.facts.get("scalars", {}).items():
            if name in scalars:
                self.report.expect_number(f"{self.name}/{name}", scalars[name], value, rtol=_SCALARS_RTOL)
            else:
                self.report.skip(f"{self.name}/{name}", "a number of no known name")

    def images(self) -> Tensor:
        """The case's input images: as stored if the file stores them, else by formula; both must match the digests."""
        height, width = self.facts["height"], self.facts["width"]
        by_formula = np.stack([formula_image(height, width, k) for k in self.facts["image_k"]])
        stored = self.vectors.tensors.get(f"{self.name}/input_uint8")
        if stored is not None:
            self.report.expect_equal(f"{self.name}/input_uint8", bool((stored.numpy() == by_formula).all()), True)
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in by_formula]
        self.report.expect_equal(f"{self.name}/input_sha256", digests, self.facts.get("input_sha256", digests))
        return to_input(by_formula if stored is None else stored.numpy())

    def check_geometry(self, images: Tensor) -> None:
        height, width = images.shape[2:]
        vit = geometry.vit_size(height, width)
        patch = self.model.config.vision.patch_px
        found = {
            "vit_input_hw": vit,
            "semantic_grid": geometry.semantic_grid(height, width),
            "pixel_grid": geometry.pixel_grid(height, width, self.model.pixel_factor),
            "grid_thw": [(1, vit[0] // patch, vit[1] // patch)] * len(images),
        }
        for name, value in found.items():
            if name in self.facts:
                self.report.expect_equal(f"{self.name}/{name}", plain(value), self.facts[name])

    def check_codes(self, kind: str, grid: Tensor) -> None:
        tensors, name = self.vectors.tensors, f"{self.name}/{kind}_indices"
        if name in tensors:
            expected = tensors[name]
            margin = tensors.get(f"{self.name}/{kind}_margin", torch.ones(expected.shape))
            self.report.expect_codes(name, grid, expected, margin, _MIN_MARGIN)

    def check_tensors(self, found: Mapping[str, Tensor]) -> None:
        """Every stored tensor: whole ones by name, parts by the expression that the file describes them with."""
        described = self.facts.get("stored", {})
        for full_name, expected in self.vectors.tensors.items():
            case, _, name = full_name.partition("/")
            if case != self.name or name in _INPUTS:
                continue
            if name in found:
                self.report.expect_tensor(full_name, found[name], expected, self.tolerance(name))
            elif (part := _described_part(described.get(name, ""), found)) is not None:
                source, value = part
                self.report.expect_tensor(full_name, value, expected, self.tolerance(source))
            else:
                self.report.skip(full_name, f"no known tensor, described as {described.get(name, '')!r}")

    def check_statistics(self, found: Mapping[str, Tensor]) -> None:
        for name, stated in self.facts.get("stats", {}).items():
            if name not in found:
                self.report.skip(f"{self.name}/stats/{name}", "a tensor of no known name")
                continue
            self.report.expect_equal(f"{self.name}/stats/{name} shape", list(found[name].shape), stated["shape"])
            scale = max(abs(stated["min"]), abs(stated["max"]))
            ours = statistics(found[name])
            expected = torch.tensor([stated[key] for key in ours if key in stated]).double()
            values = torch.tensor([ours[key] for key in ours if key in stated]).double()
            sizes = torch.tensor([scale * (found[name].numel() if key == "abs_sum" else 1) for key in ours]).double()
            allowed = max(_STATISTICS_RTOL, self.tolerance(name) / scale)
            self.report.expect_tensor(f"{self.name}/stats/{name}", values / sizes, expected / sizes, allowed)

    def tolerance(self, name: str) -> float:
        stated = re.search(r"atol ([\d.e+-]+)", self.vectors.facts.get("tolerances", {}).get(name, ""))
        return float(stated[1]) if stated else _ATOL[name]


def _intermediates(model: DualViTok, images: Tensor) -> dict[str, Tensor]:
    """Everything that the files store or describe of a case, by their names."""
    outputs = model(images)
    patches, _ = images_to_patches(images, model.config.vision)
    latents, target = model._semantic_latents(images)
    codes = outputs.codes
    return {
        "patches": patches.flatten(0, 1),
        "vit_out": model.features(images).semantic_BTD.flatten(0, 1),
        "h_semantic": latents,
        "h_pixel": model._pixel_latents(images),
        "pixel_encoder_out": model.pixel_encoder(images),
        "target_semantic": semantic_map(target, images),
        "quant_semantic": model.semantic_quantizer.decode(codes.semantic_BYX),
        "quant_pixel": model.pixel_quantizer.decode(codes.pixel_BYX),
        "merged": model.code_features(codes),
        "decoded": outputs.images_BCYX,
        "dec_semantic": semantic_map(outputs.semantic_BTD, images),
    }


def _described_part(description: str, found: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """Name and value of a part such as `decoded[:1,:, ::4, ::4]` or `rows [0, 1, 60] of the patchified ViT input`."""
    rows = re.match(r"rows \[([\d, ]+)\] of the patchified", description)
    if rows:
        return "patches", found["patches"][[int(row) for row in rows[1].split(",")]]
    part = re.match(r"(\w+)\[([\d:,\s]+)\]", description)
    if part is None or part[1] not in found:
        return None
    return part[1], found[part[1]][tuple(_index(text.strip()) for text in part[2].split(","))]


def _index(text: str) -> int | slice:
    if ":" not in text:
        return int(text)
    bounds: Sequence[int | None] = [int(number) if number else None for number in text.split(":")]
    return slice(*bounds)
