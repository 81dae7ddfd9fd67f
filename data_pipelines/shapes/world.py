"""Writes the synthetic dataset of drawn shapes as ILLUME+ annotation files and images, some of them spoilt on purpose.

Every line is a function of (seed, task, split, its number), so files can be written in any order and by any worker.
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
BAD_ANYWHERE = ("caption_control_chars", "caption_empty", "caption_special_tokens")  # text may hold markup and URLs
BROKEN_FILES = {"truncated_image": "cut", "zero_byte": "empty", "not_an_image": "html"}
NEAR_COPIES = ("jpeg", "resized", "brighter")
HTML_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"


@dataclass(frozen=True, kw_only=True)
class WorldFile:
    """An annotation file to write: lines `first` to `first + count - 1` of a task and split."""

    name: str
    task: str
    split: str
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """An annotation line before it is written: its texts and its encoded images."""

    prompt: str
    answer: str
    images: tuple[bytes, ...]  # encoded
    endings: tuple[str, ...]  # of the file names of the images
    meta: dict[str, Any]
    caption: str  # the part of prompt or answer that describes the image
    follow_ups: tuple[tuple[str, str], ...] = ()  # further prompts and answers about the same image


def plan_world(config: ShapesConfig) -> list[WorldFile]:
    """The annotation files to write, in order."""
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
    """Write `annotations/*.jsonl`, `images/*.tar` and `truth/*.jsonl` below `folder`.

    Returns counts of lines by task and by expected verdict, and of images.
    """
    counts: Counter[str] = Counter()
    for file in plan_world(config):
        counts.update(generate_file(folder, config, file))
    return dict(sorted(counts.items()))


def generate_file(folder: Path, config: ShapesConfig, file: WorldFile) -> dict[str, int]:
    """Write one annotation file with its images and expected verdicts; touches nothing else in `folder`."""
    for part in ("annotations", "truth", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter(lines=file.count)
    lines, truths = [], []
    with (folder / "images" / f"{file.name}.tar").open("wb") as images:
        tar = TarWriter(images)
        for number in range(file.first, file.first + file.count):
            line, truth = _make_line(config, file, number)
            names = [f"{file.name}/{number:06d}-{slot}{ending}" for slot, ending in enumerate(line.endings)]
            for name, data in zip(names, line.images, strict=True):
                tar.add(name, data)
            lines.append(_annotation(config, file, number, line, names))
            truths.append({"id": f"{file.task}-{file.split}-{number:06d}", **truth})
            counts.update([f"{file.task}", f"verdict {truth['verdict']}"])
            counts.update(images=len(names))
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
            {"from": role, "value": text}
            for exchange in ((line.prompt, line.answer), *line.follow_ups)
            for role, text in zip(("human", "gpt"), exchange, strict=True)
        ],
        "task": file.task,
        "split": file.split,
        "license": config.license,
        "meta": line.meta,
    }


def _random(config: ShapesConfig, file: WorldFile, number: int, purpose: str) -> random.Random:
    return random.Random(f"{config.seed}/{file.task}/{file.split}/{number}/{purpose}")


def _defect(config: ShapesConfig, file: WorldFile, number: int) -> str:
    """The kind of defect of line `number`; "clean" for most lines."""
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
    earlier = [
        other for other in range(max(file.first, number - 50), number) if _defect(config, file, other) == "clean"
    ]
    return rng.choice(earlier) if earlier else None


def _make_line(config: ShapesConfig, file: WorldFile, number: int) -> tuple[Line, dict[str, Any]]:
    defect = _defect(config, file, number)
    rng = _random(config, file, number, "spoil")
    if defect in ("exact", "near"):
        original = _original(config, file, number, rng)
        if original is not None:
            line = _clean_line(config, file, original)
            original_id = f"{file.task}-{file.split}-{original:06d}"
            if defect == "exact":
                return line, {"verdict": "duplicate", "of": original_id}
            kind = rng.choice(NEAR_COPIES)
            return _near_copy(line, kind), {"verdict": "near_duplicate", "of": original_id, "kind": kind}
    line = _clean_line(config, file, number)
    if defect == "broken":
        reason = rng.choice(sorted(BROKEN_FILES))
        broken = _broken_bytes(line.images[-1], BROKEN_FILES[reason])
        return replace(line, images=(*line.images[:-1], broken)), {"verdict": "drop", "reason": reason}
    if defect == "caption":
        reason = rng.choice(sorted(BAD_ANYWHERE if file.task == "text" else BAD_CAPTIONS))
        return _with_caption(line, BAD_CAPTIONS[reason].replace("{}", line.caption)), {
            "verdict": "drop",
            "reason": reason,
        }
    return line, {"verdict": "keep"}


def _with_caption(line: Line, caption: str) -> Line:
    if line.answer == line.caption:
        return replace(line, answer=caption)
    return replace(line, prompt=line.prompt.replace(line.caption, caption))


def _broken_bytes(data: bytes, kind: str) -> bytes:
    return {"cut": data[: len(data) * 6 // 10], "empty": b"", "html": HTML_PAGE}[kind]


def _near_copy(line: Line, kind: str) -> Line:
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in line.images]
    if kind == "resized":
        images = [
            image.resize((round(image.width * 1.25), round(image.height * 1.25)), Image.Resampling.LANCZOS)
            for image in images
        ]
    if kind == "brighter":
        images = [ImageEnhance.Brightness(image).enhance(0.95) for image in images]
    if kind == "jpeg":
        return replace(
            line,
            images=tuple(_encode(image, "JPEG", quality=88) for image in images),
            endings=tuple(".jpg" for _ in images),
        )
    return replace(line, images=tuple(_encode(image, "PNG") for image in images))


def _encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _clean_line(config: ShapesConfig, file: WorldFile, number: int) -> Line:
    rng = _random(config, file, number, "scene")
    scene = invent_scene(config, rng)
    wording = rng if config.varied_wording else None
    makers = {"generation": _generation, "editing": _editing, "text": _text, "understanding": _understanding}
    return makers[file.task](config, scene, rng, wording)


def _drawn_images(*scenes: Scene) -> Mapping[str, tuple[Any, ...]]:
    return {
        "images": tuple(_encode(draw(scene), "PNG") for scene in scenes),
        "endings": tuple(".png" for _ in scenes),
    }


def _understanding(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    meta: dict[str, Any] = {"kind": "caption", "scene": scene.to_json()}
    described = (language.DESCRIBE, language.caption(scene, config.mentions, wording))
    questions = language.questions(scene, config.mentions, rng, colours=config.colours)
    exchanges = [described, *((asked.question, asked.answer) for asked in questions)]
    first = 0
    if rng.random() < config.question_share:
        first = 1 + rng.randrange(len(questions))
        meta |= {"kind": "question", "question": questions[first - 1].kind}
    prompt, answer = exchanges.pop(first)
    more = language.more_existence_questions(
        scene, questions, rng, count=config.existence_questions - 1, colours=config.colours
    )
    exchanges += ((asked.question, asked.answer) for asked in more)
    follow_ups = rng.sample(exchanges, min(config.exchanges - 1, len(exchanges)))
    return Line(
        prompt=f"<image>\n{prompt}",
        answer=answer,
        meta=meta,
        caption=answer,
        follow_ups=tuple(follow_ups),
        **_drawn_images(scene),
    )


def _generation(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    caption = language.caption(scene, config.mentions, wording)
    meta = {"kind": "generation", "scene": scene.to_json()}
    prompt = language.GENERATION_PROMPT % caption
    return Line(prompt=prompt, answer="<image>", meta=meta, caption=caption, **_drawn_images(scene))


def _editing(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    edit = invent_edit(scene, config, rng)
    instruction = language.instruction(edit, config.mentions)
    meta = {"kind": edit.kind, "scene": edit.target.to_json(), "source_scene": edit.source.to_json()}
    prompt = language.EDITING_PROMPT % instruction
    images = _drawn_images(edit.source, edit.target)
    return Line(prompt=prompt, answer="<image>", meta=meta, caption=instruction, **images)


def _text(config: ShapesConfig, scene: Scene, rng: random.Random, wording: random.Random | None) -> Line:
    caption = language.caption(scene, config.mentions, wording)
    asked = rng.choice(language.questions(scene, config.mentions, rng, colours=config.colours))
    meta = {"kind": "text", "question": asked.kind, "scene": scene.to_json()}
    prompt = f"{caption[0].upper()}{caption[1:]}. {asked.question}"
    return Line(prompt=prompt, answer=asked.answer, meta=meta, caption=asked.answer, images=(), endings=())
