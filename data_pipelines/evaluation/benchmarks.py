"""Prompts of public image benchmarks, and pictures laid out as the benchmarks' own scoring tools read them.

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
from models.mllm.config import SamplingConfig

Format = Literal["geneval", "mjhq", "emu_edit", "prompts"]
_EMU_COLUMNS = ("idx", "instruction", "image", "input_caption", "output_caption")


class BenchmarkError(ValueError):
    """Benchmark data that are not there or not as their format has them."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt; `picture` is the encoded source of an edit. `facts` is what the scoring tool wants beside it."""

    key: str  # unique, and a name for files
    prompt: str
    facts: Mapping[str, Any]
    picture: bytes = b""

    @property
    def digest(self) -> str:
        """Of everything that decides what is drawn."""
        content = json.dumps([self.key, self.prompt, dict(self.facts)], sort_keys=True).encode()
        return hashlib.sha256(content + b"\0" + self.picture).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the pictures are made."""

    size: Size  # (height, width) of the codes; edits keep their source's size
    sampling: SamplingConfig
    images_per_prompt: int = 1
    enlarge: bool = False  # draw with the diffusion decoder, at twice the size
    diffusion_steps: int = 50
    diffusion_guidance: float = 2.0


def read_items(kind: Format, data: Path) -> list[Item]:
    """All prompts of a benchmark, in the order of its file. Raises: BenchmarkError."""
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
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BenchmarkError(f"{kind}: {data} has two prompts named {twice!r}")
    return items


def draw_items(model: IllumePlus, kind: Format, items: Sequence[Item], drawing: Drawing, output: Path) -> int:
    """Draw every item and write it where its scoring tool looks. Gives the number of pictures."""
    return sum(_WRITERS[kind](model, item, drawing, output) for item in items)


def _read_geneval(data: Path) -> Iterator[Item]:
    for number, line in enumerate(data.read_text(encoding="utf-8").splitlines()):
        if line.strip():
            facts = json.loads(line)
            yield Item(key=f"{number:05d}", prompt=str(facts["prompt"]), facts=facts)


def _read_mjhq(data: Path) -> Iterator[Item]:
    for name, facts in json.loads(data.read_text(encoding="utf-8")).items():
        key = f"{facts['category']}/{name}"
        if ".." in key or key.startswith("/"):
            raise ValueError(f"the name {key!r} leaves the folder")
        yield Item(key=key, prompt=str(facts["prompt"]), facts=facts)


def _read_emu_edit(data: Path) -> Iterator[Item]:
    files = sorted(data.glob("*.parquet")) if data.is_dir() else [data]
    if not files:
        raise FileNotFoundError(f"no *.parquet in {data}")
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=list(_EMU_COLUMNS), batch_size=64):
            for row in batch.to_pylist():
                facts = {name: row[name] for name in ("input_caption", "output_caption", "instruction")}
                picture = bytes(row["image"]["bytes"])
                yield Item(key=str(int(row["idx"])), prompt=str(row["instruction"]), facts=facts, picture=picture)


def _read_prompts(data: Path) -> Iterator[Item]:
    for number, line in enumerate(data.read_text(encoding="utf-8").splitlines()):
        if line.strip():
            yield Item(key=f"{number:05d}", prompt=line.strip(), facts={})


_READERS: Mapping[Format, Callable[[Path], Iterator[Item]]] = {
    "geneval": _read_geneval,
    "mjhq": _read_mjhq,
    "emu_edit": _read_emu_edit,
    "prompts": _read_prompts,
}


def _draw(model: IllumePlus, item: Item, drawing: Drawing) -> list[Image.Image]:
    """The item's pictures; each item has its own random numbers, whatever is drawn beside it."""
    seed = int(item.digest[:8], 16)
    codes = model.generate([item.prompt] * drawing.images_per_prompt, drawing.size, drawing.sampling, first_seed=seed)
    if not drawing.enlarge:
        return model.decode(codes)
    return model.enlarge(codes, steps=drawing.diffusion_steps, guidance=drawing.diffusion_guidance, seed=seed)


def _write_geneval(model: IllumePlus, item: Item, drawing: Drawing, output: Path) -> int:
    folder = output / item.key
    (folder / "samples").mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps(dict(item.facts)) + "\n", encoding="utf-8")
    pictures = _draw(model, item, drawing)
    for number, picture in enumerate(pictures):
        picture.save(folder / "samples" / f"{number:04d}.png")
    return len(pictures)


def _write_mjhq(model: IllumePlus, item: Item, drawing: Drawing, output: Path) -> int:
    path = output / f"{item.key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(model, item, drawing)[0].save(path)
    return 1


def _write_emu_edit(model: IllumePlus, item: Item, drawing: Drawing, output: Path) -> int:
    try:
        with Image.open(io.BytesIO(item.picture)) as opened:
            source = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise BenchmarkError(f"emu_edit: the picture of {item.key} cannot be decoded ({error})") from error
    edited = model.edit(source, item.prompt, drawing.sampling)
    for folder, picture in (("source", source), ("edited", edited)):
        (output / folder).mkdir(exist_ok=True)
        picture.save(output / folder / f"{item.key}.png")
    (output / "captions").mkdir(exist_ok=True)
    (output / "captions" / f"{item.key}.json").write_text(json.dumps(dict(item.facts)) + "\n", encoding="utf-8")
    return 1


def _write_prompts(model: IllumePlus, item: Item, drawing: Drawing, output: Path) -> int:
    pictures = _draw(model, item, drawing)
    for number, picture in enumerate(pictures):
        picture.save(output / f"{item.key}-{number}.png")
    return len(pictures)


_WRITERS: Mapping[Format, Callable[[IllumePlus, Item, Drawing, Path], int]] = {
    "geneval": _write_geneval,
    "mjhq": _write_mjhq,
    "emu_edit": _write_emu_edit,
    "prompts": _write_prompts,
}
