"""Writes the world of drawn shapes as ILLUME+ annotation files and pictures, some of them spoilt on purpose.

Every line is a function of (seed, task, split, its number), so files can be made in any order and by any worker.
"""

import io
import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.shapes import language
from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.scenes import Scene, invent_edit, invent_scene

TASKS = ("understanding", "generation", "editing", "text")
BAD_CAPTIONS = {
    "caption_empty": "",
    "caption_html": "<p>{}</p>",
    "caption_url": "https://img.example.org/2021/07/photo.jpg",
    "caption_filename": "IMG_20190714_153022.jpg",
    "caption_control_chars": "{}\x07\x08",
    "caption_special_tokens": "{} <|im_start|>system",
}
BAD_ANYWHERE = ("caption_control_chars", "caption_empty", "caption_special_tokens")  # text may hold markup, addresses
BROKEN_FILES = {"truncated_image": "cut", "zero_byte": "empty", "not_an_image": "html"}
NEAR_COPIES = ("jpeg", "resized", "brighter")
HTML_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"


@dataclass(frozen=True, kw_only=True)
class WorldFile:
    """One annotation file to make: lines `first` to `first + count` of a task and split."""

    name: str
    task: str
    split: str
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One annotation line before it is written: its words, and its pictures by name ending."""

    prompt: str
    answer: str
    pictures: tuple[bytes, ...]
    endings: tuple[str, ...]
    meta: dict[str, Any]
    spoken: str  # the part of prompt or answer that is the caption
    more: tuple[tuple[str, str], ...] = ()  # further prompts and answers about the same picture


def plan_world(config: ShapesConfig) -> list[WorldFile]:
    """Which annotation files there will be, in order."""
    files = []
    for task in TASKS:
        train = int(getattr(config, task))  # the config has one field for each task
        val = math.ceil(train * config.val_share)
        for split, total in (("train", train), ("val", val)):
            for index, first in enumerate(range(0, total, config.lines_per_file)):
                count = min(config.lines_per_file, total - first)
                name = f"{task}_{split}-{index:05d}"
                files.append(WorldFile(name=name, task=task, split=split, first=first, count=count))
    return files


def generate_world(folder: Path, config: ShapesConfig) -> dict[str, int]:
    """Write `annotations/*.jsonl`, `images/*.tar` and `truth/*.jsonl` below `folder`; counts by what was done."""
    counts: Counter[str] = Counter()
    for file in plan_world(config):
        counts.update(generate_file(folder, config, file))
    return dict(sorted(counts.items()))


def generate_file(folder: Path, config: ShapesConfig, file: WorldFile) -> dict[str, int]:
    """Write one annotation file with its pictures and its truth; nothing else in `folder` is read or changed."""
    for part in ("annotations", "truth", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter(lines=file.count)
    lines, truths = [], []
    with (folder / "images" / f"{file.name}.tar").open("wb") as pictures:
        tar = TarWriter(pictures)
        for number in range(file.first, file.first + file.count):
            line, truth = _make_line(config, file, number)
            names = [f"{file.name}/{number:06d}-{slot}{ending}" for slot, ending in enumerate(line.endings)]
            for name, data in zip(names, line.pictures, strict=True):
                tar.add(name, data)
            lines.append(_annotation(config, file, number, line, names))
            truths.append({"id": f"{file.task}-{file.split}-{number:06d}", **truth})
            counts.update([f"{file.task}", f"verdict {truth['verdict']}"])
            counts.update(pictures=len(names))
        tar.close()
    _write_lines(folder / "annotations" / f"{file.name}.jsonl", lines)
    _write_lines(folder / "truth" / f"{file.name}.jsonl", truths)
    return dict(counts)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _annotation(config: ShapesConfig, file: WorldFile, number: int, line: Line, names: list[str]) -> dict[str, Any]:
    return {
        "id": f"{file.task}-{file.split}-{number:06d}",
        "images": names,
        "conversations": [
            {"from": speaker, "value": words}
            for exchange in ((line.prompt, line.answer), *line.more)
            for speaker, words in zip(("human", "gpt"), exchange, strict=True)
        ],
        "task": file.task,
        "split": file.split,
        "license": config.license,
        "meta": line.meta,
    }


def _random(config: ShapesConfig, file: WorldFile, number: int, purpose: str) -> random.Random:
    return random.Random(f"{config.seed}/{file.task}/{file.split}/{number}/{purpose}")


def _fate(config: ShapesConfig, file: WorldFile, number: int) -> str:
    """How line `number` is spoilt; "clean" for most."""
    roll = _random(config, file, number, "fate").random()
    shares = config.spoilt
    for name, share in (
        ("exact", shares.exact_duplicates),
        ("near", shares.near_duplicates),
        ("broken", shares.broken_files),
        ("caption", shares.bad_captions),
    ):
        if roll < share:
            return "clean" if file.task == "text" and name in ("near", "broken") else name
        roll -= share
    return "clean"


def _original(config: ShapesConfig, file: WorldFile, number: int, rng: random.Random) -> int | None:
    """An earlier clean line of the same file that `number` can copy."""
    earlier = [other for other in range(max(file.first, number - 50), number) if _fate(config, file, other) == "clean"]
    return rng.choice(earlier) if earlier else None


def _make_line(config: ShapesConfig, file: WorldFile, number: int) -> tuple[Line, dict[str, Any]]:
    fate = _fate(config, file, number)
    rng = _random(config, file, number, "spoil")
    if fate in ("exact", "near"):
        original = _original(config, file, number, rng)
        if original is not None:
            line = _clean_line(config, file, original)
            of = f"{file.task}-{file.split}-{original:06d}"
            if fate == "exact":
                return line, {"verdict": "duplicate", "of": of}
            kind = rng.choice(NEAR_COPIES)
            return _near_copy(line, kind), {"verdict": "near_duplicate", "of": of, "kind": kind}
    line = _clean_line(config, file, number)
    if fate == "broken":
        reason = rng.choice(sorted(BROKEN_FILES))
        broken = _broken_bytes(line.pictures[-1], BROKEN_FILES[reason])
        return replace(line, pictures=(*line.pictures[:-1], broken)), {"verdict": "drop", "reason": reason}
    if fate == "caption":
        reason = rng.choice(sorted(BAD_ANYWHERE if file.task == "text" else BAD_CAPTIONS))
        return _respoken(line, BAD_CAPTIONS[reason].replace("{}", line.spoken)), {"verdict": "drop", "reason": reason}
    return line, {"verdict": "keep"}


def _respoken(line: Line, words: str) -> Line:
    if line.answer == line.spoken:
        return replace(line, answer=words)
    return replace(line, prompt=line.prompt.replace(line.spoken, words))


def _broken_bytes(data: bytes, how: str) -> bytes:
    return {"cut": data[: len(data) * 6 // 10], "empty": b"", "html": HTML_PAGE}[how]


def _near_copy(line: Line, kind: str) -> Line:
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in line.pictures]
    if kind == "resized":
        pictures = [
            picture.resize((round(picture.width * 1.25), round(picture.height * 1.25)), Image.Resampling.LANCZOS)
            for picture in pictures
        ]
    if kind == "brighter":
        pictures = [ImageEnhance.Brightness(picture).enhance(0.95) for picture in pictures]
    if kind == "jpeg":
        return replace(
            line,
            pictures=tuple(_encode(picture, "JPEG", quality=88) for picture in pictures),
            endings=tuple(".jpg" for _ in pictures),
        )
    return replace(line, pictures=tuple(_encode(picture, "PNG") for picture in pictures))


def _encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _clean_line(config: ShapesConfig, file: WorldFile, number: int) -> Line:
    rng = _random(config, file, number, "scene")
    scene = invent_scene(config, rng)
    wording = rng if config.varied_wording else None
    makers = {"generation": _generation, "editing": _editing, "text": _text, "understanding": _understanding}
    return makers[file.task](config, scene, rng, wording)


def _pictures(*scenes: Scene) -> Mapping[str, tuple[Any, ...]]:
    return {
        "pictures": tuple(_encode(draw(scene), "PNG") for scene in scenes),
        "endings": tuple(".png" for _ in scenes),
    }


def _understanding(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    meta: dict[str, Any] = {"kind": "caption", "scene": scene.to_json()}
    caption = (language.DESCRIBE, language.caption(scene, config.mentions, wording))
    questions = language.questions(scene, config.mentions, rng, colours=config.colours)
    exchanges = [caption, *((asked.question, asked.answer) for asked in questions)]
    first = 0
    if rng.random() < config.question_share:
        first = 1 + rng.randrange(len(questions))
        meta |= {"kind": "question", "question": questions[first - 1].kind}
    prompt, answer = exchanges.pop(first)
    more = rng.sample(exchanges, min(config.exchanges - 1, len(exchanges)))
    return Line(
        prompt=f"<image>\n{prompt}", answer=answer, meta=meta, spoken=answer, more=tuple(more), **_pictures(scene)
    )


def _generation(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    words = language.caption(scene, config.mentions, wording)
    meta = {"kind": "generation", "scene": scene.to_json()}
    prompt = language.GENERATION_PROMPT % words
    return Line(prompt=prompt, answer="<image>", meta=meta, spoken=words, **_pictures(scene))


def _editing(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    edit = invent_edit(scene, config, rng)
    words = language.instruction(edit, config.mentions)
    meta = {"kind": edit.kind, "scene": edit.target.to_json(), "source_scene": edit.source.to_json()}
    prompt = language.EDITING_PROMPT % words
    return Line(prompt=prompt, answer="<image>", meta=meta, spoken=words, **_pictures(edit.source, edit.target))


def _text(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    words = language.caption(scene, config.mentions, wording)
    asked = rng.choice(language.questions(scene, config.mentions, rng, colours=config.colours))
    meta = {"kind": "text", "question": asked.kind, "scene": scene.to_json()}
    prompt = f"{words[0].upper()}{words[1:]}. {asked.question}"
    return Line(prompt=prompt, answer=asked.answer, meta=meta, spoken=asked.answer, pictures=(), endings=())
