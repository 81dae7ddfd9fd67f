"""Small random models that score images, saved as transformers saves them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 32  # pixels
WIDTH = 16  # of the features
LABELS = ("safe", "unsafe", "watermark")


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A model that compares images with words spelt letter by letter."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    text = {**SIZES, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53}
    vision = {**SIZES, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
    return folder


def write_classifier(folder: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    names = dict(enumerate(LABELS))
    config = ViTConfig(
        **SIZES, image_size=SIDE, patch_size=8, id2label=names, label2id={name: key for key, name in names.items()}
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def write_head(file: Path, width: int = WIDTH) -> Path:
    generator = torch.Generator().manual_seed(2)
    save_file({"weight": torch.randn(1, width, generator=generator), "bias": torch.tensor([5.0])}, file)
    return file
