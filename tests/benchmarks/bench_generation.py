"""Compares generating images, batch 1 and 8, with a plain loop without a cache: tokens per second.

Run: python tests/benchmarks/bench_generation.py [--side 128] [--device cpu]
Each prompt requests one image with guidance 2. The plain loop computes the whole sequence and its unconditional
companion again for every token of one prompt. Greedy sampling shows that both give the same tokens.
"""

from dataclasses import replace

import click
import numpy as np
import torch
from turns import print_rates, seconds_in_turns

from models.dualvitok.config import PixelConfig, VisionConfig
from models.dualvitok.geometry import pixel_grid, semantic_grid
from models.mllm.attention import attention_inputs
from models.mllm.config import MllmConfig, SamplingConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.generation import Generator, Prompt
from models.mllm.grammar import RowState, Rules
from models.mllm.model import UnifiedMllm
from models.mllm.sampling import apply_guidance
from models.mllm.vocabulary import Ids

TEXT_IDS, END = 2000, 3


def make_model(side: int, device: str) -> UnifiedMllm:
    config = MllmConfig(
        text=TextModelConfig(
            hidden_size=256,
            intermediate_size=704,
            num_layers=6,
            num_heads=4,
            num_key_value_heads=2,
            tie_embeddings=True,
            initializer_range=0.08,
        ),
        tokens=TokenTableConfig(
            first_vision_id=TEXT_IDS, semantic_codes=1024, pixel_codes=2048, resolutions=(side,), rows=6144
        ),
        vision=VisionBranchConfig(tower=VisionConfig(output_width=64), pixel=PixelConfig()),
    )
    torch.manual_seed(0)
    return UnifiedMllm(config).to(device).eval()


def plain_loop(model: UnifiedMllm, rules: Rules, prompt: Prompt, config: SamplingConfig) -> Ids:
    """The best allowed token of the guided scores, with everything recomputed for each."""
    state = RowState(
        rules=rules,
        tokens_left=config.max_new_tokens,
        images_left=1,
        force_image=True,
        stop_after_image=True,
        resolution=prompt.resolution,
    )
    state.begin(prompt.ids)
    assert prompt.unconditional is not None
    with torch.inference_mode():
        while True:
            state.forced()
            if state.finished:
                return np.array(state.generated)
            answer = np.array(state.generated, dtype=np.int64)
            scores = [
                last_scores(model, np.concatenate([ids, answer])) for ids in (prompt.ids, prompt.unconditional.ids)
            ]
            allowed = state.allowed().ids
            mixed = apply_guidance(*scores, config.guidance)[0, allowed.start : allowed.stop]
            state.accept(allowed.start + int(mixed.argmax()))


def last_scores(model: UnifiedMllm, ids: Ids) -> torch.Tensor:
    """Scores [1, V] after a sequence."""
    ids_BT = torch.from_numpy(ids)[None].to(model.embedding.text.device)
    positions = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
    hidden = model.decode(model.embed(ids_BT, ()), positions, attention_inputs(torch.ones_like(ids_BT)))
    return model.output_table.scores(hidden[:, -1], range(model.vocabulary.total)).float()


@click.command()
@click.option("--side", default=128, show_default=True, help="Of the images, in pixels; 16 px for one pixel code.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(side: int, device: str, repeats: int) -> None:
    """Print the table."""
    model = make_model(side, device)
    rules = Rules(model.vocabulary, semantic_grid, pixel_grid, end_id=END, resolutions=[(side, side)])
    config = replace(SamplingConfig.published_generation(), max_new_tokens=1600)
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(
            ids=rng.integers(0, TEXT_IDS, 30),
            unconditional=Prompt(ids=rng.integers(0, TEXT_IDS, 20)),
            resolution=(side, side),
            seed=number,
        )
        for number in range(8)
    ]
    generator = Generator(model, rules)
    greedy = replace(config, greedy=True)
    plain = plain_loop(model, rules, prompts[0], greedy)
    cached = generator.generate(prompts[:1], greedy)[0].ids
    length = len(plain)
    runs = {
        "plain loop without a cache, batch 1": lambda: plain_loop(model, rules, prompts[0], greedy),
        "here, batch 1": lambda: generator.generate(prompts[:1], config),
        "here, batch 8": lambda: generator.generate(prompts, config),
    }
    seconds = seconds_in_turns(runs, repeats)
    amounts = dict(zip(runs, (float(length), float(length), 8.0 * length), strict=True))
    title = f"images of {side}x{side}, {length} tokens each, guidance {config.guidance}, {device}"
    print_rates(title, amounts, seconds, "tokens/s", next(iter(runs)))
    click.echo(f"  greedy tokens equal to the plain loop's: {(plain == cached).mean():.2%}")


if __name__ == "__main__":
    main()
