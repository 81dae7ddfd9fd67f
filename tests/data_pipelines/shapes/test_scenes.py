"""The drawn world: scenes, words about them, files, and the oracle that reads the pictures back."""

import hashlib
import io
import json
import random
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data_pipelines.shapes import language
from data_pipelines.shapes.config import SHAPES, ShapesConfig, SpoiltShares
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.language import Described
from data_pipelines.shapes.oracle import Found, SceneScore, connected_areas, read_scene, score_scene
from data_pipelines.shapes.scenes import Scene, invent_edit, invent_scene
from data_pipelines.shapes.world import generate_file, generate_world, plan_world

PLAIN = ShapesConfig(
    seed=3, sizes=("large",), backgrounds=("white",), placement="row", max_shapes=2, varied_wording=False
)


def scenes(config: ShapesConfig, count: int) -> list[Scene]:
    return [invent_scene(config, random.Random(f"{config.seed}/{index}")) for index in range(count)]


def read(scene: Scene, *, blur: float = 0.0, noise: float = 0.0, shapes: tuple[str, ...] = SHAPES[:3]) -> SceneScore:
    picture = draw(scene).filter(ImageFilter.GaussianBlur(blur)) if blur else draw(scene)
    pixels = np.asarray(picture)
    if noise:
        grain = np.random.default_rng(7).normal(0, noise, pixels.shape)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return score_scene(language.describe(scene), read_scene(pixels, shapes=shapes))


def share_right(scores: list[SceneScore]) -> float:
    return sum(score.all_right for score in scores) / len(scores)


@pytest.mark.parametrize("shapes", [SHAPES[:3], SHAPES], ids=["three shapes", "five shapes"])
def test_the_oracle_reads_clean_drawings_without_a_mistake(shapes: tuple[str, ...]) -> None:
    config = ShapesConfig(seed=1, shapes=shapes)
    assert share_right([read(scene, shapes=shapes) for scene in scenes(config, 40)]) == 1.0


@pytest.mark.parametrize(("blur", "noise", "floor"), [(1.0, 0, 0.97), (1.5, 0, 0.95), (1.0, 12, 0.95)])
def test_the_oracle_reads_blurred_and_noisy_drawings(blur: float, noise: float, floor: float) -> None:
    config = ShapesConfig(seed=2, image_sizes=((64, 64),))
    assert share_right([read(scene, blur=blur, noise=noise) for scene in scenes(config, 50)]) >= floor


def test_the_oracle_reads_pictures_enlarged_to_many_pixels() -> None:
    pictures = [(scene, draw(scene).resize((scene.width * 5, scene.height * 5))) for scene in scenes(PLAIN, 8)]
    for scene, picture in pictures:
        assert score_scene(language.describe(scene), read_scene(np.asarray(picture))).both_right == len(scene.figures)


def test_an_empty_or_plain_picture_has_no_objects() -> None:
    assert read_scene(np.full((64, 64, 3), 240, np.uint8)) == []
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    read_scene(noise)  # must not fail


def test_a_wrong_colour_costs_only_the_colour() -> None:
    expected = [Described(shape="circle", colour="red"), Described(shape="square", colour="blue")]
    score = score_scene(expected, [Described(shape="circle", colour="green"), expected[1]])
    assert (score.shapes_right, score.colours_right, score.both_right, score.number_right) == (2, 1, 1, True)
    assert not score.all_right


def test_a_repeated_object_is_counted_once() -> None:
    red = Described(shape="circle", colour="red")
    score = score_scene([red], [red, red])
    assert (score.both_right, score.number_right, score.all_right) == (1, False, False)


def test_connected_areas_join_a_horseshoe() -> None:
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1]], bool)
    assert sorted(int(area.sum()) for area in connected_areas(mask)) == [1, 1, 7]


def test_captions_say_everything_and_are_read_back_exactly() -> None:
    config = ShapesConfig(seed=5, shapes=SHAPES)
    for index, scene in enumerate(scenes(config, 100)):
        words = language.caption(scene, config.mentions, random.Random(index))
        parsed = language.parse_caption(words)
        assert parsed is not None
        assert sorted(map(str, parsed)) == sorted(map(str, language.describe(scene)))
        assert language.parse_background(words) == scene.background


def test_captions_of_a_restricted_world_are_short() -> None:
    words = {language.caption(scene, PLAIN.mentions) for scene in scenes(PLAIN, 50)}
    assert all(len(text.split()) <= 7 for text in words)
    assert any(text in words for text in ("a red circle", "a blue square", "a green triangle", "an orange circle"))


@pytest.mark.parametrize("text", ["", "nothing to see", "a red", "red circle?!"])
def test_text_without_an_object_is_not_a_caption(text: str) -> None:
    assert language.parse_caption(text) is None


def test_questions_have_the_right_answers() -> None:
    config = ShapesConfig(seed=9)
    for index, scene in enumerate(scenes(config, 60)):
        kinds = {(figure.shape, figure.colour) for figure in scene.figures}
        for asked in language.questions(scene, config.mentions, random.Random(index)):
            if asked.kind == "count":
                assert language.NUMBERS.index(asked.answer) == len(scene.figures)
            if asked.kind == "colour":
                assert (asked.question.split()[-1].strip("?"), asked.answer) in kinds
            if asked.kind == "exists":
                colour, shape = asked.question.strip("?").split()[-2:]
                assert (asked.answer == "yes") == ((shape, colour) in kinds)


def test_edits_change_one_thing_and_their_pictures_show_it() -> None:
    config = ShapesConfig(seed=11)
    seen = set()
    for index, scene in enumerate(scenes(config, 50)):
        edit = invent_edit(scene, config, random.Random(index))
        seen.add(edit.kind)
        before, after = set(edit.source.figures), set(edit.target.figures)
        assert len(before - after) + len(after - before) == (1 if edit.kind in ("add", "remove") else 2)
        assert read(edit.target).all_right
    assert seen == {"recolour", "move", "add", "remove"}


def test_a_scene_survives_json() -> None:
    for scene in scenes(ShapesConfig(seed=4), 5):
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


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


def test_lines_are_spoilt_as_the_truth_says(tmp_path: Path) -> None:
    generate_world(tmp_path, SMALL)
    lines: dict[str, Any] = {}
    truths: dict[str, Any] = {}
    for path in sorted((tmp_path / "annotations").iterdir()):
        lines |= {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
        truths |= {row["id"]: row for row in map(json.loads, (tmp_path / "truth" / path.name).read_text().splitlines())}
    assert lines.keys() == truths.keys()

    def picture(line: dict[str, list[str]]) -> bytes:
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
            assert not line["images"] or picture(line) == picture(original)
        if truth["verdict"] == "near_duplicate":
            assert picture(line) != picture(lines[truth["of"]])
        if truth["verdict"] == "keep" and line["images"]:
            scene = Scene.from_json(line["meta"]["scene"])
            assert Image.open(io.BytesIO(picture(line))).size == (scene.width, scene.height)
            assert isinstance(read_scene(np.asarray(draw(scene)))[0], Found)


def test_a_picture_is_talked_about_in_as_many_exchanges_as_there_is_something_new_to_ask(tmp_path: Path) -> None:
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
            assert [(one.shape, one.colour) for one in language.parse_caption(said) or ()] == [
                (one.shape, one.colour) for one in language.describe(scene)
            ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchanges": 0}, "exchanges must be at least 1"),
        ({"colours": ("red", "pink")}, "colours: found ['pink']"),
        ({"shapes": ()}, "shapes: found nothing"),
        ({"min_shapes": 3, "max_shapes": 2}, "found 3 and 2"),
        ({"image_sizes": ((64, 8),)}, "at least 24 pixels"),
    ],
)
def test_a_config_that_cannot_be_drawn_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ShapesConfig(seed=0, **change)  # type: ignore[arg-type] # a wrong value is the point
