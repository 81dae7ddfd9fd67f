"""Token shards compared with JSON lines of nested lists: bytes per image, and images per CPU-second up to token ids.

Run: python tests/benchmarks/bench_tokens.py [--images 2000] [--size 256]
All rows are measured in this one run, on one thread. "published" works like the published code: JSON lines, codes
rendered to token text, text tokenized with all added tokens.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import click
import numpy as np
from tokenizers import Tokenizer

from data_pipelines.tokens.text_tokenizer import extend, train_text_tokenizer
from data_pipelines.tokens.token_shards import ImageCodes, TokenizerIdentity, TokenShard, TokenShardWriter, block_ids
from models.mllm.vocabulary import VisionVocabulary

TEXTS = [f"Generate an image of a {colour} frog, number {n}" for n in range(40) for colour in ("red", "green", "blue")]


def random_codes(num_images: int, size: int, identity: TokenizerIdentity) -> list[ImageCodes]:
    rng = np.random.default_rng(0)
    semantic, pixel = identity.grids((size, size), "benchmark")
    return [
        ImageCodes(
            sample_id=rng.bytes(32).hex(),
            slot=0,
            anchor=(size, size),
            semantic_YX=rng.integers(0, identity.semantic_codes, semantic),
            pixel_YX=rng.integers(0, identity.pixel_codes, pixel),
        )
        for _ in range(num_images)
    ]


def write_json(path: Path, images: list[ImageCodes]) -> None:
    with path.open("w") as file:
        for image in images:
            levels = [image.semantic_YX.tolist(), image.pixel_YX.tolist()]
            line = {"sample_id": image.sample_id, "matched_ratios": [list(image.anchor)], "image_embed_inds": [levels]}
            file.write(json.dumps(line) + "\n")


def write_shard(path: Path, images: list[ImageCodes], identity: TokenizerIdentity) -> None:
    with TokenShardWriter(path, identity) as writer:
        for image in images:
            writer.write(image)


def read_json(path: Path) -> list[tuple[Any, Any]]:
    with path.open() as file:
        return [tuple(json.loads(line)["image_embed_inds"][0]) for line in file]


def json_codes(path: Path) -> int:
    return sum(len(np.array(semantic)) + len(np.array(pixel)) for semantic, pixel in read_json(path))


def json_ids(path: Path, vocabulary: VisionVocabulary) -> int:
    return sum(len(vocabulary.block_ids(np.array(semantic), np.array(pixel))) for semantic, pixel in read_json(path))


def rendered(semantic: list[list[int]], pixel: list[list[int]]) -> str:
    levels = []
    for level, rows in enumerate((semantic, pixel)):
        lines = ("".join(f"<|image_level{level}_{code}|>" for code in row) + "<end_of_line>" for row in rows)
        levels.append(f"<start_of_level{level}>{''.join(lines)}<end_of_level{level}>")
    return f"<start_of_image>{''.join(levels)}<end_of_image>"


def published_ids(path: Path, tokenizer: Tokenizer) -> int:
    return sum(len(tokenizer.encode(rendered(semantic, pixel)).ids) for semantic, pixel in read_json(path))


def shard_codes(path: Path) -> int:
    return sum(len(block.semantic_NYX) for block in TokenShard(path).blocks())


def shard_ids(path: Path, vocabulary: VisionVocabulary) -> int:
    return sum(len(block_ids(block, vocabulary)) for block in TokenShard(path).blocks())


def shard_random(path: Path, num_images: int) -> int:
    shard = TokenShard(path)
    rows = np.random.default_rng(1).permutation(shard.num_rows)[:num_images]
    return sum(len(shard.read_rows([row])) for row in rows)


def rate(work: Callable[[], int], num_images: int, repeats: int = 3) -> float:
    """Images per CPU-second, best of some tries."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return num_images / best


@click.command()
@click.option("--images", "num_images", default=2000, show_default=True)
@click.option("--size", default=256, show_default=True, help="Pixels per side.")
def main(num_images: int, size: int) -> None:
    text = train_text_tokenizer(TEXTS, 400)
    vocabulary = VisionVocabulary.published(text.get_vocab_size())
    start = time.process_time()
    tokenizer = extend(text, vocabulary)
    extend_s = time.process_time() - start
    identity = TokenizerIdentity(sha256="0" * 64, semantic_codes=32_768, pixel_codes=98_304, pixel_factor=16)
    images = random_codes(num_images, size, identity)
    num_semantic, num_pixel = images[0].semantic_YX.size, images[0].pixel_YX.size
    entropy = (num_semantic * 15 + num_pixel * math.log2(98_304)) / 8
    few = max(1, num_images // 10)
    with tempfile.TemporaryDirectory() as folder:
        lines, few_lines, shard = (Path(folder) / name for name in ("codes.jsonl", "few.jsonl", "codes.parquet"))
        write_json(lines, images)
        write_json(few_lines, images[:few])
        write_shard(shard, images, identity)
        rows = [
            (
                "published: JSON, text, tokenizer",
                lines,
                None,
                rate(lambda: published_ids(few_lines, tokenizer), few, 1),
            ),
            ("JSON lines", lines, lambda: json_codes(lines), rate(lambda: json_ids(lines, vocabulary), num_images)),
            ("token shard", shard, lambda: shard_codes(shard), rate(lambda: shard_ids(shard, vocabulary), num_images)),
        ]
        click.echo(
            f"{num_images} images of {size}x{size}: {num_semantic} + {num_pixel} codes, entropy {entropy:.0f} bytes"
        )
        click.echo(f"{'':34}{'bytes':>8}{'/entropy':>10}{'codes/s':>12}{'ids/s':>12}{'ratio':>9}")
        for name, path, read_codes, ids_rate in rows:
            num_bytes = path.stat().st_size / num_images
            codes = f"{rate(read_codes, num_images):,.0f}" if read_codes else "-"
            ratio = ids_rate / rows[0][3]
            click.echo(f"{name:16}{num_bytes:8.0f}{num_bytes / entropy:10.2f}{codes:>12}{ids_rate:12,.0f}{ratio:9.1f}")
        click.echo(
            f"token shard, single rows in random order: {rate(lambda: shard_random(shard, few), few):,.0f} images/s"
        )
    click.echo(f"adding {vocabulary.size:,} tokens to a text tokenizer: {extend_s:.2f} s")


if __name__ == "__main__":
    main()
