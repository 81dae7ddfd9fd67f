"""Annotation files and images follow from the config alone, and are spoilt as the truth files state."""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.shapes import language
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.oracle import DetectedObject, read_scene
from data_pipelines.shapes.scenes import Scene
from data_pipelines.shapes.world import generate_file, generate_world, plan_world
from tests.data_pipelines.shapes.drawn import PLAIN

SPOTLESS = SpoiltShares(exact_duplicates=0.0, near_duplicates=0.0, broken_files=0.0, bad_captions=0.0)
SMALL = ShapesConfig(
    seed=21, understanding=30, generation=30, editing=12, text=10, lines_per_file=16,
    spoilt=SpoiltShares(exact_duplicates=0.1, near_duplicates=0.1, broken_files=0.1, bad_captions=0.1),
)  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_config_gives_the_same_files_in_any_order(tmp_path: Path) -> None:
    counts = generate_world(tmp_path / "one", SMALL)
    for file in reversed(plan_world(SMALL)):
        generate_file(tmp_path / "two", SMALL, file)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert counts["understanding"] == 32
    assert counts["lines"] == sum(counts[f"verdict {v}"] for v in ("keep", "drop", "duplicate", "near_duplicate"))
    assert min(counts[f"verdict {v}"] for v in ("drop", "duplicate", "near_duplicate")) >= 2


def test_lines_are_spoilt_as_the_truth_files_state(tmp_path: Path) -> None:
    generate_world(tmp_path, SMALL)
    lines: dict[str, Any] = {}
    truths: dict[str, Any] = {}
    for path in sorted((tmp_path / "annotations").iterdir()):
        lines |= {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
        truths |= {row["id"]: row for row in map(json.loads, (tmp_path / "truth" / path.name).read_text().splitlines())}
    assert lines.keys() == truths.keys()

    def image_bytes(line: dict[str, list[str]]) -> bytes:
        name = line["images"][-1]
        with tarfile.open(tmp_path / "images" / f"{name.split('/')[0]}.tar") as tar:
            member = tar.extractfile(name)
            assert member is not None
            return member.read()

    for name, truth in truths.items():
        line = lines[name]
        if truth["verdict"] == "duplicate":
            original = lines[truth["of"]]
            assert line["conversations"] == original["conversations"]
            assert not line["images"] or image_bytes(line) == image_bytes(original)
        if truth["verdict"] == "near_duplicate":
            assert image_bytes(line) != image_bytes(lines[truth["of"]])
        if truth["verdict"] == "keep" and line["images"]:
            scene = Scene.from_json(line["meta"]["scene"])
            assert Image.open(io.BytesIO(image_bytes(line))).size == (scene.width, scene.height)
            assert isinstance(read_scene(np.asarray(draw(scene)))[0], DetectedObject)


def test_more_existence_questions_are_about_other_objects_and_answered_rightly(tmp_path: Path) -> None:
    config = replace(
        PLAIN, understanding=40, generation=0, editing=0, text=0, exchanges=12, existence_questions=6, spoilt=SPOTLESS
    )
    generate_world(tmp_path, config)
    answers = Counter[str]()
    for path in (tmp_path / "annotations").iterdir():
        for line in map(json.loads, path.read_text().splitlines()):
            scene = Scene.from_json(line["meta"]["scene"])
            present = {f"{figure.colour} {figure.shape}" for figure in scene.figures}
            turns = [turn["value"].removeprefix("<image>\n") for turn in line["conversations"]]
            asked = {
                match[1]: answer
                for prompt, answer in zip(turns[::2], turns[1::2], strict=True)
                if (match := re.fullmatch(r"Is there an? (.*)\?", prompt))
            }
            assert sum(prompt.startswith("Is there") for prompt in turns[::2]) == len(asked)
            assert 2 <= len(asked) <= 6
            assert {name for name, answer in asked.items() if answer == "yes"} <= present
            assert not {name for name, answer in asked.items() if answer == "no"} & present
            answers.update(asked.values())
    assert min(answers["yes"], answers["no"]) >= 40


def test_an_image_gets_as_many_exchanges_as_there_are_different_questions(tmp_path: Path) -> None:
    config = replace(PLAIN, understanding=40, generation=0, editing=0, text=0, exchanges=9, spoilt=SPOTLESS)
    generate_world(tmp_path, config)
    for path in (tmp_path / "annotations").iterdir():
        for line in map(json.loads, path.read_text().splitlines()):
            speakers = [turn["from"] for turn in line["conversations"]]
            prompts = [turn["value"].removeprefix("<image>\n") for turn in line["conversations"][::2]]
            assert speakers == ["human", "gpt"] * len(prompts)
            assert (
                3 <= len(set(prompts)) == len(prompts) <= 5
            )  # describe, count, exists; colour and shape of a sole one
            assert (prompts[0] == language.DESCRIBE) == (line["meta"]["kind"] == "caption")
            assert prompts.count(language.DESCRIBE) == 1
            scene = Scene.from_json(line["meta"]["scene"])
            said = line["conversations"][1 + 2 * prompts.index(language.DESCRIBE)]["value"]
            assert [(described.shape, described.colour) for described in language.parse_caption(said) or ()] == [
                (described.shape, described.colour) for described in language.describe(scene)
            ]
