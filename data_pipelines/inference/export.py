"""Finished models as one folder for other programs: safetensors and JSON only, with a card that says what is what."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from data_pipelines.tokens.vocabulary import TOKENIZER_FILE, load_vocabulary
from models.mllm import weights
from models.mllm.model import UnifiedMllm
from models.mllm.text_model import qwen2_config

CARD = """# {title}

| folder | what | load with |
|---|---|---|
{rows}

{figures}
"""
WHAT = {
    "tokenizer": ("DualViTok: pictures to codes and back", "`models.dualvitok.weights.load`"),
    "mllm": ("the unified language model with its vision branch and vocabulary", "`models.mllm.weights.load`"),
    "mllm_text": ("its decoder alone, all token rows", "`transformers.AutoModelForCausalLM`, `AutoTokenizer`"),
    "decoder": ("diffusion decoder, a diffusers folder", "`models.diffusion.weights.load`"),
    "report": ("figures and pictures of its evaluation", "any viewer"),
}
CHAT_TEMPLATE = (
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def export_models(folders: Mapping[str, Path], output: Path) -> Mapping[str, float]:
    """Copy the models, add the plain Hugging Face folder of the language model and the card."""
    for slot, folder in folders.items():
        keep = shutil.ignore_patterns("samples")  # of a report: its figures and sheet are enough
        shutil.copytree(folder, output / slot, ignore=keep)
    model = weights.load(folders["mllm"])
    export_text_model(model, folders["mllm"], output / "mllm_text")
    card = _card(folders, output)
    (output / "README.md").write_text(card, encoding="utf-8")
    return {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}


def export_text_model(model: UnifiedMllm, vocabulary: Path, output: Path) -> None:
    """The decoder with its token tables as plain `Qwen2ForCausalLM`, and the tokenizer that fits it."""
    text, tokens = model.config.text, model.config.tokens
    chat = load_vocabulary(vocabulary).text
    config = qwen2_config(
        text,
        rows=tokens.rows,
        bos_token_id=None,
        eos_token_id=chat.im_end_id,
        pad_token_id=chat.end_of_text_id,
    )
    published = weights.to_published(model.state_dict())
    tensors = {name: tensor for name, tensor in published.items() if not _is_picture_part(name)}
    with torch.device("meta"):
        plain = Qwen2ForCausalLM(config)
    plain.load_state_dict(tensors, strict=True, assign=True)
    plain.tie_weights()
    disable_progress_bar()  # the terminal belongs to the run's own display
    plain.save_pretrained(output, safe_serialization=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(vocabulary / TOKENIZER_FILE),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(output)


def _is_picture_part(name: str) -> bool:
    return name.startswith(("model.mm_projector.", "model.vision_tower."))


def _card(folders: Mapping[str, Path], output: Path) -> str:
    present = [name for name in WHAT if (output / name).is_dir()]
    rows = "\n".join(f"| {name}/ | {WHAT[name][0]} | {WHAT[name][1]} |" for name in present)
    figures = ""
    if "report" in folders:
        found: dict[str, Any] = json.loads((folders["report"] / "metrics.json").read_text())
        lines = [f"| {name} | {value:.4g} |" for name, value in found.items()]
        figures = "\n".join(["| figure | value |", "|---|---|", *lines])
    return CARD.format(title="ILLUME+ models", rows=rows, figures=figures)
