"""Reads prompts of public image benchmarks, and writes images in the layout of the benchmarks' own scoring tools.

| format | reads | writes |
|---|---|---|
| geneval | `evaluation_metadata.jsonl` of GenEval | `00000/metadata.jsonl`, `00000/samples/0000.png`, ... |
| mjhq | `meta_data.json` of MJHQ-30K | `<category>/<id>.png` |
| emu_edit | Parquet files of the Emu Edit test set | `source/<idx>.png`, `edited/<idx>.png`, `captions/<idx>.json` |
| prompts | a text file, a prompt in each line | `00000-0.png`, ... |
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from data_pipelines.inference.illume_plus import IllumePlus
from models.dualvitok.geometry import Size
from models.errors import DataError
from models.mllm.config import SamplingConfig

Format = Literal["geneval", "mjhq", "emu_edit", "prompts"]
_EMU_COLUMNS = ("idx", "instruction", "image", "input_caption", "output_caption")


class BenchmarkError(DataError):
    """The data of a benchmark are missing or malformed."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """A prompt of a benchmark."""

    key: str  # unique; names the output files
    prompt: str
    metadata: Mapping[str, Any]  # written beside the images for the scoring tool
    source_image: bytes = b""  # encoded; the image to edit

    @property
    def digest(self) -> str:
        """Digest of everything that affects the images of this prompt."""
        content = json.dumps([self.key, self.prompt, dict(self.metadata)], sort_keys=True).encode()
        return hashlib.sha256(content + b"\0" + self.source_image).hexdigest()


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How images are generated."""

    size: Size  # (height, width) of the codes; edits keep their source's size
    sampling: SamplingConfig
    images_per_prompt: int = 1
    enlarge: bool = False  # decode with the diffusion decoder, at twice the size
    diffusion_steps: int = 50
    diffusion_guidance: float = 2.0


def read_items(kind: Format, data: Path) -> list[BenchmarkItem]:
    """All prompts of a benchmark, in the order of its files. Raises: BenchmarkError."""
    try:
        items = list(_READERS[kind](data))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise BenchmarkError(f"{kind}: {data} cannot be read ({error}); download the benchmark's data") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchmarkError(f"{kind}: {data} is not as {kind} has it ({error!r})") from error
    if not items:
        raise BenchmarkError(f"{kind}: {data} holds no prompts")
    keys = [item.key for item in items]
    if len(set(keys)) != len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise BenchmarkError(f"{kind}: {data} has two prompts named {repeated!r}")
    return items


def draw_items(
    model: IllumePlus, kind: Format, items: Sequence[BenchmarkItem], settings: DrawSettings, output: Path
) -> int:
    """Generate the images of the items and write them in the layout of the scoring tool; returns their number."""
    return sum(_WRITERS[kind](model, item, settings, output) for item in items)


def _read_geneval(data: Path) -> Iterator[BenchmarkItem]:
    for number, line in enumerate(data.read_text(encoding="utf-8").splitlines()):
        if line.strip():
            metadata = json.loads(line)
            yield BenchmarkItem(key=f"{number:05d}", prompt=str(metadata["prompt"]), metadata=metadata)


def _read_mjhq(data: Path) -> Iterator[BenchmarkItem]:
    for name, metadata in json.loads(data.read_text(encoding="utf-8")).items():
        key = f"{metadata['category']}/{name}"
        if ".." in key or key.startswith("/"):
            raise ValueError(f"the name {key!r} leaves the folder")
        yield BenchmarkItem(key=key, prompt=str(metadata["prompt"]), metadata=metadata)


def _read_emu_edit(data: Path) -> Iterator[BenchmarkItem]:
    files = sorted(data.glob("*.parquet")) if data.is_dir() else [data]
    if not files:
        raise FileNotFoundError(f"no *.parquet in {data}")
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=list(_EMU_COLUMNS), batch_size=64):
            for row in batch.to_pylist():
                yield BenchmarkItem(
                    key=str(int(row["idx"])),
                    prompt=str(row["instruction"]),
                    metadata={name: row[name] for name in ("input_caption", "output_caption", "instruction")},
                    source_image=bytes(row["image"]["bytes"]),
                )


def _read_prompts(data: Path) -> Iterator[BenchmarkItem]:
    for number, line in enumerate(data.read_text(encoding="utf-8").splitlines()):
        if line.strip():
            yield BenchmarkItem(key=f"{number:05d}", prompt=line.strip(), metadata={})


_READERS: Mapping[Format, Callable[[Path], Iterator[BenchmarkItem]]] = {
    "geneval": _read_geneval,
    "mjhq": _read_mjhq,
    "emu_edit": _read_emu_edit,
    "prompts": _read_prompts,
}


def _draw(model: IllumePlus, item: BenchmarkItem, settings: DrawSettings) -> list[Image.Image]:
    """The images of the item; their random numbers depend on the item only, not on its neighbours."""
    seed = int(item.digest[:8], 16)
    codes = model.generate(
        [item.prompt] * settings.images_per_prompt, settings.size, settings.sampling, first_seed=seed
    )
    if not settings.enlarge:
        return model.decode(codes)
    return model.enlarge(codes, steps=settings.diffusion_steps, guidance=settings.diffusion_guidance, seed=seed)


def _write_geneval(model: IllumePlus, item: BenchmarkItem, settings: DrawSettings, output: Path) -> int:
    folder = output / item.key
    (folder / "samples").mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps(dict(item.metadata)) + "\n", encoding="utf-8")
    images = _draw(model, item, settings)
    for number, image in enumerate(images):
        image.save(folder / "samples" / f"{number:04d}.png")
    return len(images)


def _write_mjhq(model: IllumePlus, item: BenchmarkItem, settings: DrawSettings, output: Path) -> int:
    path = output / f"{item.key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(model, item, settings)[0].save(path)
    return 1


def _write_emu_edit(model: IllumePlus, item: BenchmarkItem, settings: DrawSettings, output: Path) -> int:
    try:
        with Image.open(io.BytesIO(item.source_image)) as opened:
            source = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise BenchmarkError(f"emu_edit: the image of {item.key} cannot be decoded ({error})") from error
    edited = model.edit(source, item.prompt, settings.sampling)
    for folder, image in (("source", source), ("edited", edited)):
        (output / folder).mkdir(exist_ok=True)
        image.save(output / folder / f"{item.key}.png")
    (output / "captions").mkdir(exist_ok=True)
    (output / "captions" / f"{item.key}.json").write_text(json.dumps(dict(item.metadata)) + "\n", encoding="utf-8")
    return 1


def _write_prompts(model: IllumePlus, item: BenchmarkItem, settings: DrawSettings, output: Path) -> int:
    images = _draw(model, item, settings)
    for number, image in enumerate(images):
        image.save(output / f"{item.key}-{number}.png")
    return len(images)


_WRITERS: Mapping[Format, Callable[[IllumePlus, BenchmarkItem, DrawSettings, Path], int]] = {
    "geneval": _write_geneval,
    "mjhq": _write_mjhq,
    "emu_edit": _write_emu_edit,
    "prompts": _write_prompts,
}
