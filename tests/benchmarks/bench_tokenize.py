"""Tokenization in images per second: batches of one anchor next to one image at a time.

Run: python tests/benchmarks/bench_tokenize.py [--model small] [--device cpu] [--images 192] [--batch 16] [--repeats 5]
Images of three aspect ratios come in mixed order, as they do in a shard. "read and encode" is a whole shard, from the
tar to the token shard; "encode" is the network alone. All rows are measured in turns in one run; medians are shown. The
random weights of `--model published` have the size of the released tokenizer (1.3 billion parameters).
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import torch

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.world import generate_world
from data_pipelines.tokens.token_shards import TokenizerIdentity
from data_pipelines.tokens.tokenize import encode_images, samples_to_tokenize, tokenize_shard
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.model import DualViTok

SMALL_ANCHORS = ((64, 64), (48, 96), (96, 48))
PUBLISHED_ANCHORS = ((512, 512), (384, 512), (512, 384))


def small_config() -> DualViTokConfig:
    """The sizes of the quickstart recipe."""
    blocks = BlocksConfig(width=64, num_heads=4, depth=1)
    convolutions = ConvolutionsConfig(
        channels=8, channel_multipliers=(1, 2, 4, 4), residual_blocks=1, attention_levels=()
    )
    return DualViTokConfig(
        vision=VisionConfig(depth=2, width=64, num_heads=4, output_width=64),
        semantic=SemanticConfig(encoder=blocks, decoder=blocks, code_width=8, codebook_size=256),
        pixel=PixelConfig(encoder=convolutions, decoder=convolutions, norm_groups=4, code_width=8, codebook_size=512),
    )


def make_dataset(folder: Path, num_images: int, anchors: tuple[tuple[int, int], ...]) -> CuratedDataset:
    """A curated dataset of drawn scenes in one shard."""
    world = ShapesConfig(
        seed=0,
        understanding=0,
        generation=num_images,
        editing=0,
        text=0,
        val_share=0.0,
        lines_per_file=num_images,
        image_sizes=anchors,
        spoilt=SpoiltShares(exact_duplicates=0.0, near_duplicates=0.0, broken_files=0.0, bad_captions=0.0),
    )
    generate_world(folder / "raw", world)
    ingest = IngestConfig(source="shapes")
    curation = CurationConfig(anchors=anchors, min_side=32, min_sharpness=0.0, near_duplicates=False)
    shards = plan_ingest(ingest, [folder / "raw" / "annotations"])
    images = open_images(sorted((folder / "raw" / "images").iterdir()), max_bytes=1 << 26, max_unpacked_bytes=1 << 32)
    for shard in shards:
        ingest_shard(shard, folder / "records", ingest, images=images)
        measure_shard(folder / "records", shard.name, folder / "analysis", decode_limits(curation))
        judge_shard(folder / "records", folder / "analysis", shard.name, folder / "analysis", curation)
    names = [shard.name for shard in shards]
    copies = find_duplicates({name: folder / "analysis" / "analysis" / f"{name}.parquet" for name in names}, curation)
    for name in names:
        emit_shard(
            folder / "records",
            folder / "analysis",
            name,
            folder / "dataset",
            copies=copies[name],
        )
    write_dataset(
        folder / "dataset",
        "benchmark",
        {name: folder / "dataset" / "ledger" / f"{name}.parquet" for name in names},
        curation,
    )
    return CuratedDataset(folder / "dataset")


def shard_measure(dataset: CuratedDataset, model: DualViTok, batch: int, folder: Path) -> Callable[[], int]:
    config = model.config
    identity = TokenizerIdentity(
        sha256="0" * 64,
        semantic_codes=config.semantic.codebook_size,
        pixel_codes=config.pixel.codebook_size,
        pixel_factor=model.pixel_factor,
    )
    wanted = {shard: samples_to_tokenize(dataset, shard, None) for shard in dataset.shards}

    def measure() -> int:
        made = 0
        for shard, samples in wanted.items():
            out = folder / f"{shard}-{batch}-{time.monotonic_ns()}.parquet"
            made += tokenize_shard(
                dataset,
                shard,
                model=model,
                tokenizer=identity,
                sample_ids=samples,
                anchors=dataset.anchors,
                out=out,
                batch_size=batch,
            ).num_images
        return made

    return measure


def encode_measure(
    model: DualViTok, num_images: int, batch: int, anchors: tuple[tuple[int, int], ...]
) -> Callable[[], int]:
    rng = np.random.default_rng(0)
    per_anchor = max(1, num_images // len(anchors) // batch) * batch
    images = [rng.integers(0, 256, (per_anchor, *anchor, 3), dtype=np.uint8) for anchor in anchors]

    def measure() -> int:
        for anchor_images in images:
            for first in range(0, per_anchor, batch):
                encode_images(model, anchor_images[first : first + batch]).pixel_BYX.cpu()
        return per_anchor * len(anchors)

    return measure


def images_per_s(measures: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Rates of each measure; they take turns, after one round that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(repeats + 1):
        for name, measure in measures.items():
            began = time.perf_counter()
            made = measure()
            if number:
                rates[name].append(made / (time.perf_counter() - began))
    return rates


@click.command()
@click.option("--model", "size", type=click.Choice(["small", "published"]), default="small", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--images", "num_images", default=192, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Of the network, on a CPU.")
def main(size: str, device: str, num_images: int, batch: int, repeats: int, threads: int) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = small_config() if size == "small" else DualViTokConfig.published()
    anchors = SMALL_ANCHORS if size == "small" else PUBLISHED_ANCHORS
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model = DualViTok(config).eval().to(dtype)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        dataset = make_dataset(Path(name), num_images, anchors)
        rates = images_per_s(
            {
                f"{work}, {label}": measure
                for label, count in (("batches of one anchor", batch), ("one image at a time", 1))
                for work, measure in (
                    ("encode", encode_measure(model, num_images, count, anchors)),
                    ("read and encode", shard_measure(dataset, model, count, Path(name))),
                )
            },
            repeats,
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    about = (f"{parameters:,} parameters", str(dtype).removeprefix("torch."), device, f"batches of {batch}")
    click.echo(", ".join(about))
    for row, found in rates.items():
        spread = f"{min(found):.1f} to {max(found):.1f}"
        click.echo(f"{row:44} {statistics.median(found):10.1f} images/s   ({spread})")


if __name__ == "__main__":
    main()
