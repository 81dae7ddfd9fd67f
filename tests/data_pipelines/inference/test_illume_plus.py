"""Generate, edit, describe and answer with random models: sizes, repeatability, independence of neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.inference.illume_plus import IllumePlus
from data_pipelines.inference.image_tokenizer import to_image
from models.dualvitok.geometry import Size
from models.mllm.config import LevelSampling, SamplingConfig
from tests.data_pipelines.tiny_run import ANCHORS, DECODER, TinyRun

PLAIN = LevelSampling()
DRAWING = SamplingConfig(text=PLAIN, semantic=PLAIN, pixel=PLAIN, guidance=1.5)
TALKING = SamplingConfig(text=PLAIN, semantic=PLAIN, pixel=PLAIN, max_new_tokens=8, max_images=0)


@pytest.fixture(scope="module")
def model(tiny_run: TinyRun) -> IllumePlus:
    return IllumePlus.load(tiny_run.tokenizer, tiny_run.mllm, tiny_run.decoder)


def random_image(size_wh: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def flat(found: list[torch.Tensor]) -> list[list[int]]:
    return [codes.flatten().tolist() for codes in found]


@pytest.mark.parametrize("size", ANCHORS)
def test_images_are_drawn_at_the_size_asked_for_and_enlarged_to_twice_it(model: IllumePlus, size: Size) -> None:
    codes = model.generate(["a red star", "a blue circle"], size, DRAWING)
    assert [image.size for image in model.decode(codes)] == [(size[1], size[0])] * 2
    large = model.enlarge(codes, steps=2, guidance=1.5, seed=0)
    assert [image.size for image in large] == [(size[1] * DECODER.enlarge, size[0] * DECODER.enlarge)] * 2


def test_the_same_seed_draws_the_same_image_and_another_seed_another(model: IllumePlus) -> None:
    first, again = (model.generate(["a red star"], (32, 32), DRAWING)[0] for _ in range(2))
    other = model.generate(["a red star"], (32, 32), replace(DRAWING, seed=1))[0]
    assert torch.equal(first.pixel_BYX, again.pixel_BYX)
    assert not torch.equal(first.pixel_BYX, other.pixel_BYX)
    large = [model.enlarge([first], steps=2, guidance=1.5, seed=seed)[0].tobytes() for seed in (0, 0, 1)]
    assert large[0] == large[1] != large[2]


def test_one_text_asked_for_twice_gives_two_images(model: IllumePlus) -> None:
    first, second = model.generate(["a red star"] * 2, (32, 32), DRAWING)
    assert not torch.equal(first.pixel_BYX, second.pixel_BYX)


def test_an_image_does_not_depend_on_its_neighbours(model: IllumePlus) -> None:
    alone = model.generate(["a red star"], (32, 32), DRAWING)
    longer = "a much longer text about a blue circle on a grey ground"
    together = model.generate(["a red star", longer], (32, 32), DRAWING)
    assert flat([alone[0].semantic_BYX, alone[0].pixel_BYX]) == flat([together[0].semantic_BYX, together[0].pixel_BYX])


def test_an_answer_does_not_depend_on_its_neighbours(model: IllumePlus) -> None:
    questions = [
        ((random_image((40, 40), 1),), "What is it?"),
        ((random_image((80, 44), 2),), "Is there anything else to be seen?"),
    ]
    assert model.ask(questions, TALKING)[0] == model.ask(questions[:1], TALKING)[0]


@pytest.mark.parametrize("size_wh", [(32, 32), (48, 24), (37, 91), (300, 20), (7, 200)])
def test_an_edited_image_keeps_its_own_size(model: IllumePlus, size_wh: tuple[int, int]) -> None:
    edited = model.edit(random_image(size_wh), "change the colour of the star to blue", DRAWING)
    assert edited.size == size_wh
    assert edited.mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_any_mode_are_read(model: IllumePlus, mode: str) -> None:
    shown = random_image((40, 33)).convert(mode)
    assert model.edit(shown, "remove the star", DRAWING).size == (40, 33)
    assert len(model.describe([shown], TALKING)) == 1


@pytest.mark.parametrize("size_wh", [(32, 32), (300, 20), (7, 200), (5, 5), (200, 140)])
def test_images_of_any_shape_are_described(model: IllumePlus, size_wh: tuple[int, int]) -> None:
    (text,) = model.describe([random_image(size_wh)], TALKING)
    assert isinstance(text, str)
    assert text == model.describe([random_image(size_wh)], TALKING)[0]


def test_an_answer_depends_on_the_image(model: IllumePlus) -> None:
    answers = [
        model.ask([((random_image((32, 32), seed),), "What?")], replace(TALKING, max_new_tokens=24))
        for seed in range(4)
    ]
    assert len({texts[0] for texts in answers}) > 1


def test_a_question_may_have_several_images_or_none(model: IllumePlus) -> None:
    two = (random_image((32, 32), 1), random_image((48, 24), 2))
    longer = replace(TALKING, max_new_tokens=24)
    answers = [model.ask([(shown, "Which?")], longer)[0] for shown in (two, two[::-1], two[:1], ())]
    assert len(set(answers)) > 1


def test_without_a_decoder_images_cannot_be_enlarged(tiny_run: TinyRun) -> None:
    small = IllumePlus.load(tiny_run.tokenizer, tiny_run.mllm)
    codes = small.generate(["a red star"], (32, 32), DRAWING)
    with pytest.raises(ValueError, match="this run has no diffusion decoder; use `decode`, or train one"):
        small.enlarge(codes, steps=2, guidance=1.5, seed=0)


def test_codes_come_back_as_the_tokenizer_decodes_them(model: IllumePlus) -> None:
    image_CYX = torch.linspace(-1, 1, 3 * 32 * 32).reshape(3, 32, 32)
    (shown,) = model.decode([model.encode(image_CYX)])
    with torch.inference_mode():
        expected = model.tokenizer.decode(model.tokenizer.encode(image_CYX[None]))[0]
    assert np.array_equal(np.asarray(shown), np.asarray(to_image(expected)))
