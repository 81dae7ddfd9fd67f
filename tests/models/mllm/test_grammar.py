"""The grammar of answers, also where it differs from the published sampler on purpose."""

from typing import Any

import numpy as np
import pytest

from models.mllm.grammar import Allowed, PromptError, RowState, Rules
from models.mllm.vocabulary import VisionVocabulary

RULES = Rules(
    VisionVocabulary(first_id=20, semantic_codes=4, pixel_codes=6, resolutions=(16, 32, 48)),
    lambda h, w: (h // 16, w // 16),
    lambda h, w: (h // 8, w // 8),
    end_id=0,
    resolutions=[(16, 16), (16, 32), (48, 48)],
)
V = RULES.vocabulary
LENGTH = {size: len(RULES.plan(size)) for size in [(16, 16), (16, 32), (48, 48)]}


def _state(tokens_left: int = 200, images: int = 1, prompt: tuple[int, ...] = (1, 2), **options: Any) -> RowState:
    state = RowState(rules=RULES, tokens_left=tokens_left, images_left=images, **options)
    state.begin(np.array(prompt, dtype=np.int64))
    return state


def test_tags_come_as_height_then_width_then_image() -> None:
    state = _state()
    assert state.allowed() == Allowed(range(20), (V.height_id(16), V.height_id(48)))
    state.accept(V.height_id(16))
    assert state.allowed() == Allowed(range(0), (V.width_id(16), V.width_id(32)))
    state.accept(V.width_id(32))
    assert state.resolution == (16, 32)
    assert state.forced() == [V.start_of_image, V.start_of_level0]
    assert state.allowed() == Allowed(V.semantic_range)


def test_only_images_that_fit_may_be_begun() -> None:
    assert _state(tokens_left=LENGTH[16, 16] + 1).allowed().others == ()
    state = _state(tokens_left=LENGTH[16, 16] + 2)
    assert state.allowed().others == (V.height_id(16),)
    state.accept(V.height_id(16))
    assert state.allowed().others == (V.width_id(16),)  # 16x32 needs more tokens
    with_resolution = _state(tokens_left=LENGTH[16, 32] - 1, resolution=(16, 32))
    assert V.start_of_image not in with_resolution.allowed().others
    assert V.start_of_image in _state(tokens_left=LENGTH[16, 32], resolution=(16, 32)).allowed().others


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (48, 48)])
def test_an_image_has_exactly_its_codes_whatever_is_sampled(size: tuple[int, int]) -> None:
    state = _state(tokens_left=LENGTH[size], resolution=size, force_image=True)
    state.forced()
    random = np.random.default_rng(0)
    while not state.finished:
        ids = state.allowed().ids
        assert state.kind == ("semantic" if ids == V.semantic_range else "pixel")
        state.accept(int(random.choice(ids)))
        state.forced()
    semantic, pixel = V.parse_block(state.generated)
    assert (semantic.shape, pixel.shape) == (RULES.semantic_grid(*size), RULES.pixel_grid(*size))
    assert state.spans == [(0, LENGTH[size], size)]


def test_tags_at_the_end_of_a_prompt_require_an_image_and_elsewhere_only_set_the_resolution() -> None:
    tags = tuple(V.tag_ids((16, 32)))
    assert _state(prompt=(1, *tags)).allowed().single_id == V.start_of_image
    earlier = _state(prompt=(*tags, 1))
    assert V.start_of_image in earlier.allowed().others
    assert 5 in earlier.allowed().ids
    assert _state(prompt=(*tags, 1), resolution=(16, 16)).resolution == (16, 16)


def test_the_end_token_and_both_limits_are_respected() -> None:
    state = _state(tokens_left=2)
    state.accept(5)
    state.accept(5)
    assert state.finished
    ended = _state()
    ended.accept(0)
    assert ended.finished
    assert _state(images=0, resolution=(16, 16)).allowed() == Allowed(range(20))
    with pytest.raises(ValueError, match="token 21 is not allowed after 0 tokens"):
        _state().accept(V.end_of_image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"force_image": True}, "neither the prompt nor the request gives a resolution"),
        (
            {"force_image": True, "resolution": (16, 16), "tokens_left": 5},
            "takes 14 tokens, but max_new_tokens leaves 5",
        ),
        ({"images": 0, "prompt": (1, *V.tag_ids((16, 16)))}, "max_images is 0"),
        ({"prompt": (1, *V.tag_ids((16, 16))), "resolution": (16, 32)}, r"ends with the tags of \(16, 16\)"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        _state(**options)
