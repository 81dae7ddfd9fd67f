"""All public vectors are equal, and a changed vector is a miss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models.check.__main__ import check_file, main
from models.check.report import Report

PUBLIC = {  # comparisons that each file must at least give
    "arc_public.json": 270,
    "dualvitok_full_state_dict.json": 2997,
    "golden_public.json": 150,
    "golden_public_extra.json": 600,
    "mllm_additions_schema.json": 2190,
    "patchgan_state_dict.json": 30,
    "text_public.json": 21,
}


def misses(report: Report) -> list[str]:
    return [finding.name for finding in report.findings if finding.equal is False]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_vectors_are_equal(name: str, shared: Path) -> None:
    report = check_file(shared / "golden" / name)
    assert [finding for finding in report.findings if finding.equal is False] == []
    assert report.compared >= PUBLIC[name]
    left_out = {finding.name for finding in report.findings if finding.equal is None}
    assert left_out <= {"sampler/parse_example", "sampler/pad_truncate_example"}


@pytest.fixture
def copies(shared: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A vector file and what belongs beside it, in a folder of the test's own, to be changed."""

    def copy(name: str) -> Path:
        for path in (shared / "golden").glob(f"{Path(name).stem.removesuffix('_extra')}*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "tiny_tokenizer_public.json").write_bytes(
            (shared / "golden" / "tiny_tokenizer_public.json").read_bytes()
        )
        return tmp_path / name

    return copy


def change_facts(path: Path, change: Callable[[Any], object]) -> None:
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def keep_section(path: Path, section: str) -> None:
    """Only what a section of an extra file needs, so that a check takes no longer than it must."""
    needed = {"mllm": {"mllm_input"}, "gan": {"gan", "train", "discriminator"}}.get(section, {section})
    change_facts(path, lambda facts: [facts.pop(name) for name in facts.keys() - needed])
    if section == "gan":
        change_facts(path, put([], "train", "steps"))


def change_tensor(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    beside = path.with_suffix(".safetensors")
    tensors = safetensors.torch.load_file(beside)
    tensors[name] = change(tensors[name])
    safetensors.torch.save_file(tensors, beside)


def added(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.clone().flatten()
        flat[-1] += amount
        return flat.view_as(tensor)

    return change


@pytest.mark.parametrize(
    ("tensor", "amount", "missed"),
    [
        ("r96x160/pixel_indices", 1, ["r96x160/pixel_indices"]),
        ("r96x160/h_semantic", 1e-4, ["r96x160/h_semantic"]),
        ("r96x160/h_semantic", float("nan"), ["r96x160/h_semantic"]),
        ("r160x112/patches_rows", 1e-3, ["r160x112/patches_rows"]),
        ("sq256/decoded_crop", 1e-2, ["sq256/decoded_crop"]),
        ("r96x160/input_uint8", 1, ["r96x160/input_uint8"]),
    ],
)
def test_a_changed_tensor_of_a_tokenizer_is_missed(
    copies: Callable[[str], Path], tensor: str, amount: float, missed: list[str]
) -> None:
    path = copies("golden_public.json")
    case = tensor.split("/")[0]
    change_facts(path, lambda facts: facts.update(cases={case: facts["cases"][case]}))
    change_tensor(path, tensor, added(amount))
    assert set(missed) <= set(misses(check_file(path)))


def test_changed_weights_are_missed(copies: Callable[[str], Path]) -> None:
    path = copies("golden_public.json")
    change_facts(path, lambda facts: facts.update(cases={"r96x160": facts["cases"]["r96x160"]}))
    change_tensor(path, "sd/pixel_decoder.conv_out.bias", added(0.01))
    assert "r96x160/decoded_crop" in misses(check_file(path))
    change_tensor(path, "sd/pixel_decoder.conv_out.bias", lambda bias: bias[:-1].clone())
    report = check_file(path)
    assert misses(report) == ["weights"]
    assert "pixel_decoder.conv_out.bias [2] instead of [3]" in report.findings[0].text


def delete(facts: Any, *keys: Any) -> None:
    for key in keys[:-1]:
        facts = facts[key]
    del facts[keys[-1]]


def put(value: Any, *keys: Any) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        for key in keys[:-1]:
            facts = facts[key]
        facts[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "missed"),
    [
        ("arc_public.json", put(3, "fixed_anchors", 0, "anchor_index"), "fixed_anchors 795x1864 (WxH)"),
        ("arc_public.json", put(0.5, "fixed_256", 0, "crop_percent"), "fixed_256 795x1864 (WxH)"),
        ("arc_public.json", put(True, "fixed_256", 0, "kept"), "fixed_256 795x1864 (WxH)"),
        ("patchgan_state_dict.json", put([65], "tensors", "main.0.bias", "shape"), "main.0.bias"),
        (
            "dualvitok_full_state_dict.json",
            put([31], "tensors", "pixel_quant_conv.bias", "shape"),
            "pixel_quant_conv.bias",
        ),
        (
            "dualvitok_full_state_dict.json",
            lambda facts: delete(facts, "tensors", "pixel_quant_conv.bias"),
            "names and their order",
        ),
        (
            "mllm_additions_schema.json",
            put(1, "models", "Qwen2.5-7B-Instruct", "param_counts", "projector"),
            "Qwen2.5-7B-Instruct param_counts projector",
        ),
        ("text_public.json", put(5, "conversations", "editing", "token_ids", 7), "conversations/editing ids"),
        ("text_public.json", put(5, "cfg_dropout", "editing", "labels", 0), "cfg_dropout/editing labels"),
        (
            "golden_public_extra.json",
            put(2.0, "train", "steps", 2, "rec_l2"),
            "train/step 2/rec_l2",
        ),
        (
            "golden_public_extra.json",
            put([9, 10, 11], "mllm_input", "maxlen_100", "trained_labels", 1),
            "mllm/maxlen_100 row 1 trained",
        ),
        (
            "golden_public_extra.json",
            put(29, "sampler", "runs", "guidance_2.0", "steps", 3, "finite_ids", 0),
            "sampler/guidance_2.0 step 3 ids",
        ),
        ("golden_public_extra.json", put(0.02, "lpips", "cases", 0, "value"), "lpips/64x64 images 1 and 2"),
    ],
)
def test_a_changed_fact_is_missed(
    copies: Callable[[str], Path], file: str, change: Callable[[Any], object], missed: str
) -> None:
    path = copies(file)
    change_facts(path, change)
    if file == "golden_public_extra.json":
        keep_section(path, missed.split("/")[0])
    assert missed in misses(check_file(path))


@pytest.mark.parametrize("tensor", ["noise/random_out", "gan/logits_fake_train", "mllm/maxlen_None/inputs_embeds"])
def test_a_changed_tensor_of_an_extra_file_is_missed(copies: Callable[[str], Path], tensor: str) -> None:
    path = copies("golden_public_extra.json")
    keep_section(path, tensor.split("/")[0])
    change_tensor(path, tensor, added(0.1))
    assert any(name.startswith(tensor.rpartition("/")[0]) for name in misses(check_file(path)))


def test_every_comparison_is_a_line_and_the_exit_code_is_the_worst(
    copies: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = copies("patchgan_state_dict.json")
    assert main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "  ok   main.0.weight: [64, 3, 4, 4]" in shown
    assert "36 compared, 0 missed" in shown
    change_facts(path, put([5], "tensors", "main.0.bias", "shape"))
    assert main([str(path), "--quiet"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        str(path),
        "  MISS main.0.bias: found [[64], 'float32'], expected [[5], 'float32']",
        "  36 compared, 1 missed",
    ]
    assert main([str(path), str(path.with_name("absent.json"))]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "found a list, expected an object"),
        ('{"rows": 3}', "found rows; expected one of: DualViTok cases"),
        ('{"anchors_hw": []}', "nothing in it could be compared"),
        ('{"models": {"X": {}}}', "KeyError('vision_tower_keys'): not as its format has it"),
        ('{"lpips": {}}', "needs the weights of its DualViTok file"),
    ],
)
def test_files_that_cannot_be_checked_say_why(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    assert main([str(path)]) == 2
    assert message in capsys.readouterr().out
