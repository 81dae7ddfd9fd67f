"""Exports trained models as one folder for other programs: safetensors and JSON only, with a model card."""

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

{metrics}
"""
CONTENTS = {  # folder -> (content, how to load it)
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
    """Copy the models to `output`, and add the language model as a plain Hugging Face folder and the card."""
    for slot, folder in folders.items():
        without_samples = shutil.ignore_patterns("samples")  # of a report only its metrics and sheet are exported
        shutil.copytree(folder, output / slot, ignore=without_samples)
    model = weights.load(folders["mllm"])
    export_text_model(model, folders["mllm"], output / "mllm_text")
    card = _card(folders, output)
    (output / "README.md").write_text(card, encoding="utf-8")
    return {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}


def export_text_model(model: UnifiedMllm, vocabulary: Path, output: Path) -> None:
    """Write the language model and its token tables as a plain `Qwen2ForCausalLM`, with its tokenizer."""
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
    tensors = {name: tensor for name, tensor in published.items() if not _is_vision_weight(name)}
    with torch.device("meta"):
        plain = Qwen2ForCausalLM(config)
    plain.load_state_dict(tensors, strict=True, assign=True)
    plain.tie_weights()
    disable_progress_bar()  # it would disturb the run's own progress display
    plain.save_pretrained(output, safe_serialization=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(vocabulary / TOKENIZER_FILE),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(output)


def _is_vision_weight(name: str) -> bool:
    return name.startswith(("model.mm_projector.", "model.vision_tower."))


def _card(folders: Mapping[str, Path], output: Path) -> str:
    present = [name for name in CONTENTS if (output / name).is_dir()]
    rows = "\n".join(f"| {name}/ | {CONTENTS[name][0]} | {CONTENTS[name][1]} |" for name in present)
    metrics = ""
    if "report" in folders:
        values: dict[str, Any] = json.loads((folders["report"] / "metrics.json").read_text())
        lines = [f"| {name} | {value:.4g} |" for name, value in values.items()]
        metrics = "\n".join(["| figure | value |", "|---|---|", *lines])
    return CARD.format(title="ILLUME+ models", rows=rows, metrics=metrics)
