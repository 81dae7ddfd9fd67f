"""Names, shapes and sizes of published state dicts, without any weights: DualViTok, PatchGAN, additions to Qwen2.5."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from models.check.report import Report, Vectors
from models.dualvitok.config import DualViTokConfig
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.model import DualViTok
from models.dualvitok.published_config import config_from_shapes, discriminator_config_from_shapes
from models.mllm.config import MllmConfig, VisionBranchConfig
from models.mllm.phases import PHASES, assign_groups
from models.mllm.projector import MixedProjector
from models.mllm.vision import VisionBranch
from models.mllm.vocabulary import VisionVocabulary
from models.mllm.weights import empty_model, to_published

_MODELS: Mapping[str, Callable[[], MllmConfig]] = {
    "Qwen2.5-3B-Instruct": MllmConfig.published_3b,
    "Qwen2.5-7B-Instruct": MllmConfig.published_7b,
}
_TOWER = "model.vision_tower."
_PROJECTOR = "model.mm_projector."


def check_tokenizer_layout(vectors: Vectors, report: Report) -> None:
    """Every tensor of DualViTok. The configuration is inferred from a few shapes; the others must follow from it."""
    layout = vectors.facts["tensors"]
    try:
        config = config_from_shapes(_shapes(layout))
    except ValueError as error:
        report.fail("configuration", str(error))
        return
    published = config == DualViTokConfig.published()
    report.expect_equal("configuration", True, True, "the published one" if published else f"by the shapes: {config}")
    with torch.device("meta"):
        model = DualViTok(config)
    _check_state(model, layout, report)
    parameters = dict(model.named_parameters())
    for name, facts in layout.items():
        if "kind" in facts:
            report.expect_equal(f"{name} kind", "param" if name in parameters else "buffer", facts["kind"])
        if name in parameters and "trainable_in_tokenizer_training" in facts:
            trains = parameters[name].requires_grad
            report.expect_equal(f"{name} trains", trains, facts["trainable_in_tokenizer_training"])
    report.expect_equal("num_tensors", len(model.state_dict()), vectors.facts.get("num_tensors", len(layout)))


def check_discriminator_layout(vectors: Vectors, report: Report) -> None:
    """Every tensor of PatchGAN, and its layers in order."""
    layout = vectors.facts["tensors"]
    with torch.device("meta"):
        model = PatchGan(discriminator_config_from_shapes(_shapes(layout)))
    _check_state(model, layout, report)
    for number, (layer, expected) in enumerate(zip(model.main, vectors.facts.get("structure", ()), strict=False)):
        # Whether an activation works in place changes no value.
        report.expect_equal(f"structure {number}", str(layer), expected.replace(", inplace=True", ""))
    report.expect_equal("layers", len(model.main), len(vectors.facts.get("structure", model.main)))


def check_mllm_layout(vectors: Vectors, report: Report) -> None:
    """What the unified model adds to each base model; for those with a published configuration also all sizes."""
    for name, schema in vectors.facts["models"].items():
        _check_vision_branch(name, schema, report)
        _check_additions(name, schema, report)
        if name in _MODELS:
            _check_whole_model(name, schema, _MODELS[name](), report)
        else:
            report.skip(f"{name} param_counts", f"no published configuration for this base; known: {[*_MODELS]}")


def _check_vision_branch(name: str, schema: Mapping[str, Any], report: Report) -> None:
    """Names, shapes and which parameters train in stage 3, of tower and pixel encoder."""
    keys = schema["vision_tower_keys"]
    with torch.device("meta"):
        branch = VisionBranch(VisionBranchConfig())
    shapes = {f"{_TOWER}{key}": list(value.shape) for key, value in branch.state_dict().items()}
    groups = assign_groups((f"vision.{key}" for key, _ in branch.named_parameters()), PHASES["stage3"])
    report.expect_equal(f"{name} names of the vision tower", sorted(shapes), sorted(keys), f"{len(keys)} names equal")
    for key, facts in keys.items():
        report.expect_equal(f"{name} {key}", shapes.get(key), facts["shape"], f"{facts['shape']}")
        trains = groups.get(f"vision.{key.removeprefix(_TOWER)}") == "vision"
        report.expect_equal(f"{name} {key} trains in stage 3", trains, facts.get("trainable_stage3", trains))
    counts = schema.get("param_counts", {})
    for part, module in (("semantic", branch.semantic_encoder), ("pixel", branch.pixel_encoder)):
        report.expect_equal(
            f"{name} {part} parameters", _size(module), counts.get(f"vision_tower_{part}", _size(module))
        )
        prefix = f"vision.{part}_encoder."
        trained = sum(
            parameter.numel() for key, parameter in module.named_parameters() if groups[prefix + key] == "vision"
        )
        expected = counts.get(f"{part}_trainable_stage3", trained)
        report.expect_equal(f"{name} {part} parameters that train in stage 3", trained, expected)


def _check_additions(name: str, schema: Mapping[str, Any], report: Report) -> None:
    """Projector and token tables for the hidden size that the file states."""
    additions = schema["additions"]
    rows, hidden_size = additions["model.embed_tokens.weight"]
    vision = VisionBranchConfig()
    with torch.device("meta"):
        projector = MixedProjector(
            semantic_width=vision.tower.output_width, pixel_width=vision.pixel.code_width, hidden_size=hidden_size
        )
    published = to_published(
        {
            "embedding.text": torch.empty(0, hidden_size, device="meta"),
            "embedding.vision": torch.empty(rows, hidden_size, device="meta"),
            **{f"projector.{key}": value for key, value in projector.state_dict().items()},
        }
    )
    for key, shape in additions.items():
        found = list(published[key].shape) if key in published else None
        report.expect_equal(f"{name} {key}", found, shape, f"{shape}")
    added = schema.get("added_tokens", VisionVocabulary.published().size)
    report.expect_equal(f"{name} added_tokens", VisionVocabulary.published().size, added)
    if "base_vocab_rows" in schema:
        report.expect_equal(f"{name} rows", schema["base_vocab_rows"] + VisionVocabulary.published().size, rows)


def _check_whole_model(name: str, schema: Mapping[str, Any], config: MllmConfig, report: Report) -> None:
    model = empty_model(config, with_vision=True)
    published = to_published(model.state_dict())
    counts = {
        "total": _size(model),
        "llm_layers": _size(model.language.layers),
        "embed": _size(model.embedding),
        "lm_head": 0 if model.head is None else _size(model.head),
        "projector": _size(model.projector),
        "vision_tower": 0 if model.vision is None else _size(model.vision),
        "embed_vision_rows": VisionVocabulary.published().size * config.text.hidden_size,
    }
    for key, found in counts.items():
        report.expect_equal(f"{name} param_counts {key}", found, schema["param_counts"].get(key, found), f"{found:,}")
    report.expect_equal(f"{name} num_state_dict_keys", len(published), schema["num_state_dict_keys"])
    report.expect_equal(f"{name} new_vocab_rows", config.tokens.rows, schema["new_vocab_rows"])
    report.expect_equal(f"{name} tie_word_embeddings", config.text.tie_embeddings, schema["tie_word_embeddings"])


def _check_state(model: nn.Module, layout: Mapping[str, Any], report: Report) -> None:
    """Names in their order, shapes and types."""
    state = model.state_dict()
    report.expect_equal("names and their order", list(state), list(layout), f"{len(layout)} names equal")
    for name, facts in layout.items():
        found = [list(state[name].shape), str(state[name].dtype).removeprefix("torch.")] if name in state else None
        expected = [facts["shape"], facts.get("dtype", found[1] if found else "")]
        report.expect_equal(name, found, expected, f"{facts['shape']}")


def _shapes(layout: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: facts["shape"] for name, facts in layout.items()}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
