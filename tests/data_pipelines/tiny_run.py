"""What a finished run leaves behind, in the smallest sizes: a drawn dataset and random models that fit together."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.images.model_input import InputSizes
from data_pipelines.inference.input_settings import ModelInput, save_input
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.world import generate_world
from data_pipelines.tokens.vocabulary import TOKENIZER_FILE, VOCABULARY_FILE, build_vocabulary, load_vocabulary
from models.diffusion import weights as decoder_weights
from models.diffusion.config import DecoderConfig, NoiseSchedule, UNetConfig
from models.diffusion.decoder import DiffusionDecoder
from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.model import DualViTok
from models.mllm import weights as mllm_weights
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import VisionBranch
from models.mllm.vocabulary import VisionVocabulary

ANCHORS = ((32, 32), (24, 48))  # (height, width)
WORLD = ShapesConfig(
    seed=3, understanding=12, generation=12, editing=8, text=2, val_share=0.5, lines_per_file=12,
    image_sizes=((64, 64), (48, 96)), min_shapes=1, max_shapes=1, sizes=("large",), varied_wording=False,
)  # fmt: skip
CURATION = CurationConfig(anchors=ANCHORS, min_side=24, min_sharpness=0.0)
BLOCKS = BlocksConfig(width=16, num_heads=2, depth=1)
CONVOLUTIONS = ConvolutionsConfig(channels=4, channel_multipliers=(1, 1, 2, 2), residual_blocks=1, attention_levels=())
TOKENIZER = DualViTokConfig(
    vision=VisionConfig(depth=1, width=16, num_heads=2, output_width=16),
    semantic=SemanticConfig(encoder=BLOCKS, decoder=BLOCKS, code_width=4, codebook_size=16),
    pixel=PixelConfig(encoder=CONVOLUTIONS, decoder=CONVOLUTIONS, norm_groups=4, code_width=4, codebook_size=32),
)
TEXT = TextModelConfig(
    hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, tie_embeddings=True,
    max_positions=512, initializer_range=0.3,
)  # fmt: skip
DECODER = DecoderConfig(
    unet=UNetConfig(kind="plain", widths=(8, 8), residual_blocks=1, transformer_layers=(0, 0), norm_groups=4),
    space="pixel",
    outputs=((64, 64), (48, 96)),
    semantic_channels=4,
    pixel_channels=4,
    code_px=8,
    schedule=NoiseSchedule(solver="ddim", prediction="sample"),
)


@dataclass(frozen=True, kw_only=True)
class TinyRun:
    """Folders of artifacts."""

    dataset: Path
    vocabulary: Path
    tokenizer: Path
    mllm: Path
    decoder: Path


def write_run(folder: Path) -> TinyRun:
    """Write everything below an empty folder; a second or two of work."""
    run = TinyRun(
        dataset=folder / "dataset",
        vocabulary=folder / "vocabulary",
        tokenizer=folder / "tokenizer",
        mllm=folder / "mllm",
        decoder=folder / "decoder",
    )
    for part in (run.vocabulary, run.tokenizer, run.mllm, run.decoder):
        part.mkdir(parents=True)
    write_drawn_dataset(folder / "steps", run.dataset)
    torch.manual_seed(0)
    tokenizer = DualViTok(TOKENIZER)
    tokenizer_weights.save(tokenizer, run.tokenizer)
    build_vocabulary(
        [run.dataset],
        run.tokenizer,
        run.vocabulary,
        resolutions=(24, 32, 48),
        text_vocabulary=300,
        first_id=0,
        text_tokenizer=None,
    )
    write_mllm(run)
    decoder_weights.save(DiffusionDecoder(DECODER), run.decoder)
    return run


def write_mllm(run: TinyRun) -> None:
    """The language model with the vocabulary that it speaks and its input settings."""
    vision = VisionBranchConfig(tower=TOKENIZER.vision, pixel=TOKENIZER.pixel)
    config = MllmConfig(text=TEXT, tokens=token_table(load_vocabulary(run.vocabulary).vision), vision=vision)
    mllm_weights.save(UnifiedMllm(config, VisionBranch(vision)), run.mllm)
    for name in (VOCABULARY_FILE, TOKENIZER_FILE):
        shutil.copyfile(run.vocabulary / name, run.mllm / name)
    sizes = InputSizes(pixel_factor=TOKENIZER.pixel.factor, fit_understanding_to_anchor=True)
    save_input(ModelInput(sizes=sizes, anchors=ANCHORS), run.mllm)


def token_table(vision: VisionVocabulary) -> TokenTableConfig:
    return TokenTableConfig(
        first_vision_id=vision.first_id,
        semantic_codes=vision.semantic_codes,
        pixel_codes=vision.pixel_codes,
        resolutions=tuple(vision.resolutions),
        rows=vision.total + 5,  # some are never used, as in the published tables
    )


def write_drawn_dataset(steps: Path, output: Path) -> None:
    """A curated dataset of drawn shapes, made by the pipelines themselves."""
    raw, records, analysis = steps / "raw", steps / "records", steps / "analysis"
    generate_world(raw, WORLD)
    config = IngestConfig(source="shapes")
    tars = sorted((raw / "images").glob("*.tar"))
    images = open_images(tars, max_bytes=config.max_image_bytes, max_unpacked_bytes=config.max_unpacked_bytes)
    for shard in plan_ingest(config, [raw / "annotations"]):
        ingest_shard(shard, records, config, images=images)
    names = record_shards(records)
    for name in names:
        measure_shard(records, name, analysis, decode_limits(CURATION))
        judge_shard(records, analysis, name, analysis, CURATION)
    files = {name: analysis / "analysis" / f"{name}.parquet" for name in names}
    for name, copies in find_duplicates(files, CURATION).items():
        emit_shard(records, analysis, name, output, copies=copies)
    write_dataset(output, "shapes", {name: output / "ledger" / f"{name}.parquet" for name in names}, CURATION)
