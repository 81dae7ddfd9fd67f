"""A small curated dataset and its tokens, written by the letter of `dataset@1` and `tokens@1`."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.tokens.token_shards import ImageCodes, TokenizerIdentity, TokenShardWriter

if TYPE_CHECKING:
    from tests.data_pipelines.tiny_run import TinyRun

TOKENIZER = TokenizerIdentity(sha256="a" * 64, semantic_codes=64, pixel_codes=192, pixel_factor=8)
LEDGER = pa.schema(
    [
        ("sample_id", pa.string()),
        ("verdict", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("offset", pa.int64()),
        ("span_bytes", pa.int64()),
        ("images", pa.list_(pa.string())),
        ("anchor_h", pa.int32()),
        ("anchor_w", pa.int32()),
    ]
)
ANCHORS = ((64, 64), (64, 128))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A sample to write."""

    task: str
    turns: tuple[str, ...]
    anchors: tuple[tuple[int, int], ...] = ()
    split: str = "train"
    verdict: str = "keep"
    image: int | None = None  # number of its image, for samples that share one; None: one of its own


def wanted_samples(num_samples: int, seed: int = 0) -> list[Wanted]:
    """A mixture of all tasks with texts of different lengths."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(num_samples):
        words = " ".join(f"word{word}" for word in rng.integers(0, 50, int(rng.integers(1, 12))))
        anchor = ANCHORS[number % 2]
        samples.append(
            [
                Wanted(task="text", turns=(f"Say {words} {number}", words)),
                Wanted(task="understanding", turns=(f"<image>\nWhat is {number}?", words), anchors=(anchor,)),
                Wanted(
                    task="generation",
                    turns=(f"Generate an image of {{resolution_tag}}, the content of image is {words}\n", "<image>"),
                    anchors=(anchor,),
                ),
                Wanted(task="editing", turns=(f"<image>\nEdit {words}.\n", "<image>"), anchors=(anchor, anchor)),
            ][number % 4]
        )
    return samples


def image_bytes(number: int, size: tuple[int, int]) -> bytes:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((size[1], size[0]), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(folder: Path, samples: Sequence[Wanted], *, name: str = "d", per_shard: int = 25) -> list[str]:
    """Write `samples` as a curated dataset; returns their ids (in order, all verdicts)."""
    (folder / "shards").mkdir(parents=True)
    (folder / "ledger").mkdir()
    ids, shards = [], []
    for start in range(0, len(samples), per_shard):
        shard = f"{name}-{start // per_shard:05d}"
        shards.append(shard)
        rows = []
        with tarfile.open(folder / "shards" / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, wanted in enumerate(samples[start : start + per_shard], start=start):
                sample_id = hashlib.sha256(f"{name}/{number}".encode()).hexdigest()
                ids.append(sample_id)
                kept = wanted.verdict == "keep"
                offset = tar.offset
                images = _write_sample(tar, sample_id, number, wanted) if kept else []
                anchor = wanted.anchors[0] if images else (None, None)
                rows.append(
                    {
                        "sample_id": sample_id,
                        "verdict": wanted.verdict,
                        "split": wanted.split,
                        "task": wanted.task,
                        "offset": offset if kept else None,
                        "span_bytes": tar.offset - offset if kept else None,
                        "images": [image["sha256"] for image in images],
                        "anchor_h": anchor[0],
                        "anchor_w": anchor[1],
                    }
                )
        pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER), folder / "ledger" / f"{shard}.parquet")
    fields: dict[str, object] = {
        "format": 1,
        "name": name,
        "anchors": [list(anchor) for anchor in ANCHORS],
        "shards": shards,
    }
    (folder / "dataset.json").write_text(json.dumps(fields))
    return ids


def _write_sample(tar: tarfile.TarFile, sample_id: str, number: int, wanted: Wanted) -> list[dict[str, Any]]:
    members: list[tuple[str, bytes]] = []
    images = []
    for slot, anchor in enumerate(wanted.anchors):
        seed = number * 10 + slot if wanted.image is None else wanted.image
        data = image_bytes(seed, (anchor[0] + 6, anchor[1]))
        member = f"{sample_id}.{slot}.png"
        members.append((member, data))
        images.append(
            {
                "member": member,
                "sha256": hashlib.sha256(data).hexdigest(),
                "width": anchor[1],
                "height": anchor[0] + 6,
                "anchor": list(anchor),
            }
        )
    roles = ("human", "gpt")
    fields: dict[str, object] = {
        "sample_id": sample_id,
        "source": "test",
        "license": None,
        "split": wanted.split,
        "task": wanted.task,
        "conversations": [{"role": roles[n % 2], "text": text} for n, text in enumerate(wanted.turns)],
        "images": images,
        "meta": {},
    }
    for name, data in [(f"{sample_id}.json", json.dumps(fields).encode()), *members]:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return images


def write_tokens(
    folder: Path,
    dataset: Path,
    samples: Sequence[Wanted],
    ids: Sequence[str],
    *,
    tokenizer: TokenizerIdentity = TOKENIZER,
    without: Sequence[str] = (),
    per_shard: int = 25,
) -> None:
    """Random codes for the images of all kept samples but those in `without`."""
    (folder / "tokens").mkdir(parents=True)
    shards = json.loads((dataset / "dataset.json").read_text())["shards"]
    for number, shard in enumerate(shards):
        with TokenShardWriter(folder / "tokens" / f"{shard}.parquet", tokenizer) as writer:
            for index in range(number * per_shard, min((number + 1) * per_shard, len(samples))):
                if samples[index].verdict != "keep" or ids[index] in without:
                    continue
                for slot, anchor in enumerate(samples[index].anchors):
                    rng = np.random.default_rng(1000 * index + slot)
                    semantic, pixel = tokenizer.grids(anchor, "test")
                    writer.write(
                        ImageCodes(
                            sample_id=ids[index],
                            slot=slot,
                            anchor=anchor,
                            semantic_YX=rng.integers(0, tokenizer.semantic_codes, semantic),
                            pixel_YX=rng.integers(0, tokenizer.pixel_codes, pixel),
                        )
                    )


@dataclass(frozen=True, kw_only=True)
class MadeDataset:
    dataset: Path
    tokens: Path
    samples: list[Wanted]
    ids: list[str]


MakeDataset = Callable[..., MadeDataset]


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> MakeDataset:
    """Writes samples and codes for them; returns where they are."""

    def make(samples: Sequence[Wanted] | int, *, name: str = "d", **tokens: object) -> MadeDataset:
        wanted = wanted_samples(samples, seed=len(name)) if isinstance(samples, int) else list(samples)
        folder = tmp_path_factory.mktemp("data")
        ids = write_dataset(folder / "dataset", wanted, name=name)
        write_tokens(folder / "tokens", folder / "dataset", wanted, ids, **tokens)  # type: ignore[arg-type] # passed on
        return MadeDataset(dataset=folder / "dataset", tokens=folder / "tokens", samples=wanted, ids=ids)

    return make


@pytest.fixture(scope="session")
def wanted() -> type[Wanted]:
    return Wanted


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> "TinyRun":
    """A drawn dataset and random models that fit together; tests only look at it."""
    from tests.data_pipelines.tiny_run import write_run  # late: most tests here need no models, which load slowly

    return write_run(tmp_path_factory.mktemp("tiny_run"))
