"""Adopts published models instead of training them: the tokenizer, the unified model, the decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.learning import Learned
from orchestrator.stage import Location, Slot, StageContext, StageKind


@dataclass(frozen=True, kw_only=True)
class AdoptConfig:
    """Where the published weights are; their bytes, not their location, are part of the stage's identity."""

    weights: Location  # a file (safetensors or PyTorch) or a folder of safetensors


@dataclass(frozen=True, kw_only=True)
class AdoptMllmConfig:
    weights: Location  # a Hugging Face folder: config.json and safetensors
    anchors: tuple[tuple[int, int], ...]  # (height, width) of images that it generates and edits
    min_pixels: int = 32**2  # of an input image, height x width
    max_pixels: int = 768**2  # stage 3 as published


def sources(config: AdoptConfig | AdoptMllmConfig) -> Mapping[str, Path]:
    return {"weights": Path(config.weights)}


def adopt_tokenizer(config: AdoptConfig, context: StageContext) -> Mapping[str, float]:
    """Adopts a published tokenizer instead of training one."""
    from models.published_weights import tokenizer_from_published

    found = tokenizer_from_published(Path(config.weights), context.output)
    return {
        "semantic_codes": float(found.semantic.codebook_size),
        "pixel_codes": float(found.pixel.codebook_size),
    }


def adopt_mllm(config: AdoptMllmConfig, context: StageContext) -> Mapping[str, float]:
    """Adopts a published unified model instead of training one, with the vocabulary of its stage."""
    import shutil

    from data_pipelines.images.model_input import InputSizes
    from data_pipelines.inference.input_settings import ModelInput, save_input
    from data_pipelines.tokens.vocabulary import TOKENIZER_FILE, VOCABULARY_FILE, load_vocabulary
    from models.dualvitok.weights import load_config
    from models.mllm.config import VisionBranchConfig
    from models.published_weights import mllm_from_published

    vocabulary = context.input("vocabulary").path
    tokenizer = load_config(context.input("tokenizer").path)
    found = mllm_from_published(
        Path(config.weights),
        context.output,
        load_vocabulary(vocabulary).vision,
        vision=VisionBranchConfig(tower=tokenizer.vision, pixel=tokenizer.pixel),
    )
    for name in (VOCABULARY_FILE, TOKENIZER_FILE):
        shutil.copyfile(vocabulary / name, context.output / name)
    sizes = InputSizes(pixel_factor=tokenizer.pixel.factor, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    save_input(ModelInput(sizes=sizes, anchors=config.anchors), context.output)
    return {"rows": float(found.tokens.rows), "layers": float(found.text.num_layers)}


def adopt_decoder(config: AdoptConfig, context: StageContext) -> Mapping[str, float]:
    """Adopts a published diffusion decoder instead of training one."""
    from models.diffusion.weights import load, save

    decoder = load(Path(config.weights))
    save(decoder, context.output)
    return {"parameters": float(sum(parameter.numel() for parameter in decoder.unet.parameters()))}


ADOPT_TOKENIZER = StageKind(
    name="adopt_tokenizer",
    version=1,
    config=AdoptConfig,
    run=adopt_tokenizer,
    output="tokenizer@1",
    learned=Learned(from_samples=False),
    sources=sources,
    metrics={"semantic_codes": "size of the semantic codebook", "pixel_codes": "size of the pixel codebook"},
)
ADOPT_MLLM = StageKind(
    name="adopt_mllm",
    version=2,
    config=AdoptMllmConfig,
    run=adopt_mllm,
    inputs={"tokenizer": Slot(kind="tokenizer@1"), "vocabulary": Slot(kind="vocabulary@1")},
    output="mllm@1",
    learned=Learned(from_samples=False),
    sources=sources,
    metrics={"rows": "rows of the token tables", "layers": "layers of the language model"},
)
ADOPT_DECODER = StageKind(
    name="adopt_decoder",
    version=1,
    config=AdoptConfig,
    run=adopt_decoder,
    output="decoder@1",
    learned=Learned(from_samples=False),
    sources=sources,
    metrics={"parameters": "parameters of the denoising network"},
)
