"""Batched, cached generation against a plain loop that recomputes everything for one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.dualvitok.geometry import pixel_grid, semantic_grid
from models.mllm.attention import attention_inputs
from models.mllm.config import LevelSampling, SamplingConfig
from models.mllm.generation import Generation, Generator, Prompt
from models.mllm.grammar import PromptError, RowState, Rules
from models.mllm.model import UnifiedMllm
from models.mllm.sampling import apply_guidance
from models.mllm.vision import ImageFeatures
from tests.models.mllm.conftest import TEXT_IDS

END = 3
SIZES = [(16, 16), (16, 32), (32, 16), (32, 32)]


def _rules(model: UnifiedMllm) -> Rules:
    return Rules(
        model.vocabulary, semantic_grid, lambda h, w: pixel_grid(h, w, factor=4), end_id=END, resolutions=SIZES
    )


def _config(**changes: object) -> SamplingConfig:
    plain = LevelSampling(temperature=0.8, top_k=12, top_p=0.9)
    config = SamplingConfig(text=plain, semantic=plain, pixel=plain, max_new_tokens=90, max_images=2, guidance=2.0)
    return replace(config, **changes)  # type: ignore[arg-type]  # any field


def _features(model: UnifiedMllm, size: tuple[int, int], seed: int) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    (sy, sx), (py, px) = semantic_grid(*size), pixel_grid(*size, factor=4)
    return ImageFeatures(torch.randn(sy * sx, 12, generator=generator), torch.randn(py * px, 4, generator=generator))


def _prompts(model: UnifiedMllm) -> list[Prompt]:
    """Different lengths, resolutions and ways to name them; the third edits an image."""
    vocabulary = model.vocabulary
    block = vocabulary.feature_block_ids(semantic_grid(16, 32), pixel_grid(16, 32, factor=4))
    tags = vocabulary.tag_ids((16, 32))
    image = _features(model, (16, 32), 0)
    return [
        Prompt(
            ids=np.array([1, 2, *vocabulary.tag_ids((16, 16))]),
            unconditional=Prompt(ids=np.array([9, *vocabulary.tag_ids((16, 16))])),
        ),
        Prompt(ids=np.arange(4, 30), resolution=(32, 16), unconditional=Prompt(ids=np.array([7, 8])), seed=5),
        Prompt(
            ids=np.concatenate([[5], tags, block, [6, 7]]),
            features=[image],
            unconditional=Prompt(ids=np.concatenate([tags, block]), features=[image]),
            seed=6,
        ),
    ]


def _last_hidden(model: UnifiedMllm, ids: list[int], prompt: Prompt) -> Tensor:
    ids_BT = torch.tensor([ids])
    positions = torch.arange(len(ids))[None]
    attention = attention_inputs(torch.ones_like(ids_BT))
    return model.decode(model.embed(ids_BT, prompt.features or ()), positions, attention)[0, -1]


@torch.no_grad()
def _plain_greedy(model: UnifiedMllm, prompt: Prompt, config: SamplingConfig) -> list[int]:
    """One token at a time, whole sequences recomputed, all scores, guidance as the formula says."""
    vocabulary = model.vocabulary
    state = RowState(
        rules=_rules(model),
        tokens_left=config.max_new_tokens,
        images_left=config.max_images,
        force_image=config.force_image,
        stop_after_image=config.stop_after_image,
        resolution=prompt.resolution,
    )
    state.begin(prompt.ids)
    table = torch.cat(model.output_table.parts)
    while not state.finished:
        scores = _last_hidden(model, [*prompt.ids, *state.generated], prompt) @ table.T
        scores = scores.log_softmax(dim=-1)
        if state.in_image and config.guidance != 1:
            assert prompt.unconditional is not None
            start = state.image_start
            before = [*prompt.ids, *state.generated[:start]]
            base = list(prompt.unconditional.ids)
            if len(before) > 1 and before[-1] in vocabulary.width_range:
                if base[-1] in vocabulary.width_range:
                    base = base[:-2]
                base += before[-2:]
            unguided = _last_hidden(model, [*base, *state.generated[start:]], prompt.unconditional) @ table.T
            scores = apply_guidance(scores, unguided.log_softmax(dim=-1), config.guidance)
        allowed = state.allowed()
        options = torch.tensor([*allowed.ids, *allowed.others])
        state.accept(int(options[scores[options].argmax()]))
    return state.generated


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_cached_batches_equal_the_plain_loop(model: UnifiedMllm, guidance: float) -> None:
    config = _config(greedy=True, guidance=guidance, force_image=guidance != 1)
    prompts = _prompts(model)
    answers = Generator(model, _rules(model)).generate(prompts, config)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.ids.tolist() == _plain_greedy(model, prompt, config)


def test_a_row_gives_the_same_answer_alone_and_in_any_batch(model: UnifiedMllm) -> None:
    generator, prompts = Generator(model, _rules(model)), _prompts(model)
    together = generator.generate(prompts, _config())
    alone = [generator.generate([prompt], _config())[0] for prompt in prompts]
    turned = generator.generate(prompts[::-1], _config())[::-1]
    for a, b, c in zip(together, alone, turned, strict=True):
        assert a.ids.tolist() == b.ids.tolist() == c.ids.tolist()


def _with_seed(model: UnifiedMllm, seed: int) -> Generation:
    prompt = _prompts(model)[0]
    return Generator(model, _rules(model)).generate([prompt], _config(seed=seed))[0]


def test_seeds_decide_what_is_sampled(model: UnifiedMllm) -> None:
    assert _with_seed(model, 1).ids.tolist() == _with_seed(model, 1).ids.tolist()
    assert _with_seed(model, 1).ids.tolist() != _with_seed(model, 2).ids.tolist()
    prompt = _prompts(model)[0]
    twins = [replace(prompt, seed=0), replace(prompt, seed=1), replace(prompt, seed=0)]
    first, second, third = Generator(model, _rules(model)).generate(twins, _config())
    assert first.ids.tolist() == third.ids.tolist() != second.ids.tolist()


def test_images_have_the_requested_size_and_text_is_kept_apart(model: UnifiedMllm) -> None:
    answers = Generator(model, _rules(model)).generate(_prompts(model), _config(force_image=True))
    for answer, size in zip(answers, [(16, 16), (32, 16), (16, 32)], strict=True):
        codes = answer.images[0]
        assert tuple(codes.semantic_BYX.shape) == (1, *semantic_grid(*size))
        assert tuple(codes.pixel_BYX.shape) == (1, *pixel_grid(*size, factor=4))
        assert codes.pixel_BYX.max() < 32
        assert (answer.text_ids < TEXT_IDS).all()
        assert len(answer.parts) == len(answer.images) + sum(isinstance(part, np.ndarray) for part in answer.parts)


def test_an_answer_can_stop_after_its_image_or_hold_none(model: UnifiedMllm) -> None:
    generator, prompts = Generator(model, _rules(model)), _prompts(model)
    for answer in generator.generate(prompts, _config(force_image=True, stop_after_image=True)):
        assert len(answer.parts) == len(answer.images) == 1
        assert answer.ids[-1] == model.vocabulary.end_of_image
    silent = generator.generate([prompts[1]], _config(max_images=0, guidance=1.0, max_new_tokens=30))[0]
    assert silent.images == []
    assert (silent.ids < TEXT_IDS).all()


def test_the_unguided_prompt_sees_only_the_tags_and_the_image(model: UnifiedMllm) -> None:
    """The published code hands the three tokens before the image over, text included (facts 8.27)."""
    seen: list[list[int]] = []
    embed = model.embed

    def spy(ids_BT: Tensor, features: object) -> Tensor:
        seen.extend(ids_BT.tolist())
        return embed(ids_BT, features)  # type: ignore[arg-type]  # handed on

    model.embed = spy  # type: ignore[method-assign]  # records what goes in
    prompt = Prompt(ids=np.array([1, 2]), resolution=(16, 16), unconditional=Prompt(ids=np.array([7, 8])))
    Generator(model, _rules(model)).generate([prompt], _config(force_image=True, stop_after_image=True))
    vocabulary = model.vocabulary
    assert seen[0] == [1, 2, vocabulary.start_of_image, vocabulary.start_of_level0]
    assert seen[1] == [7, 8, vocabulary.start_of_image, vocabulary.start_of_level0]


def test_the_training_mode_is_restored(model: UnifiedMllm) -> None:
    model.train()
    Generator(model, _rules(model)).generate(_prompts(model)[:1], _config(max_images=1, stop_after_image=True))
    assert model.training


def test_prompts_that_cannot_work_are_refused_before_anything_runs(model: UnifiedMllm) -> None:
    generator = Generator(model, _rules(model))
    plain = Prompt(ids=np.array([1, 2]))
    with pytest.raises(PromptError, match="guidance needs the prompt without its condition"):
        generator.generate([plain], _config())
    with pytest.raises(PromptError, match="gives a resolution"):
        generator.generate([plain], _config(guidance=1.0, force_image=True))
    blind = Generator(UnifiedMllm(model.config), _rules(model))
    with_image = Prompt(ids=np.array([1, 2]), images=[torch.zeros(3, 16, 16)])
    with pytest.raises(PromptError, match="has no vision branch"):
        blind.generate([with_image], _config(guidance=1.0))
    assert generator.generate([], _config()) == []
