"""Training steps on packed rows compared with rows padded to the longest sample: real tokens per second.

Run: python tests/benchmarks/bench_packing.py [--samples 48] [--row-tokens 512] [--device cpu]
The samples have the lengths of the emoji recipe: questions about an image, images drawn from a caption, edits, and
text alone. Both sides train on the same tokens, and their losses must agree.
"""

from collections.abc import Sequence
from itertools import pairwise

import click
import numpy as np
import torch
from turns import print_rates, seconds_in_turns

from data_pipelines.training_data.packing import PackedRow, PackedSample, build_row, row_starts
from models.dualvitok.config import PixelConfig, VisionConfig
from models.dualvitok.geometry import Size, pixel_grid, semantic_grid
from models.mllm.batch import PackedBatch
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.model import UnifiedMllm
from models.mllm.vision import ImageFeatures
from models.mllm.vocabulary import IGNORED_LABEL

ANCHOR: Size = (64, 64)
FACTOR = 8  # image pixels per pixel code
PADDED_ROWS = 8  # samples of one padded batch
TEXT_IDS = 2000


def make_model(device: str) -> UnifiedMllm:
    """The language model of the emoji recipe; features are given, so no encoder is timed."""
    config = MllmConfig(
        text=TextModelConfig(
            hidden_size=128,
            intermediate_size=384,
            num_layers=4,
            num_heads=4,
            num_key_value_heads=2,
            tie_embeddings=True,
        ),
        tokens=TokenTableConfig(
            first_vision_id=TEXT_IDS, semantic_codes=256, pixel_codes=512, resolutions=(64,), rows=2816
        ),
        vision=VisionBranchConfig(tower=VisionConfig(output_width=64), pixel=PixelConfig()),
    )
    torch.manual_seed(0)
    return UnifiedMllm(config).to(device)


class Mixture:
    """Samples of four kinds in equal shares, with the features of their input images."""

    def __init__(self, model: UnifiedMllm, count: int) -> None:
        rng = np.random.default_rng(0)
        self.model, self.rng = model, rng
        self.samples: list[PackedSample] = []
        self.features: list[list[ImageFeatures]] = []
        for number in range(count):
            grids = self._grids(ANCHOR)
            inputs, target = ((True, False), (False, True), (True, True), (False, False))[number % 4]
            self._add(grids, has_input=inputs, has_target=target)

    def _grids(self, anchor: Size) -> tuple[Size, Size]:
        return semantic_grid(*anchor), pixel_grid(*anchor, factor=FACTOR)

    def _add(self, grids: tuple[Size, Size], *, has_input: bool, has_target: bool) -> None:
        vocabulary, widths = self.model.vocabulary, self.model.config.vision
        question = self.rng.integers(0, TEXT_IDS, self.rng.integers(10, 30))
        answer = self.rng.integers(0, TEXT_IDS, self.rng.integers(10, 60))
        if has_target:
            codes = (self.rng.integers(0, 256, grids[0]), self.rng.integers(0, 512, grids[1]))
            answer = vocabulary.block_ids(*codes)
        block = vocabulary.feature_block_ids(*grids) if has_input else np.zeros(0, dtype=np.int64)
        ids = np.concatenate([block, question, answer])
        labels = np.where(np.arange(len(ids)) < len(block) + len(question), IGNORED_LABEL, ids)
        self.samples.append(PackedSample(ids=ids, labels=labels, images=()))
        (sy, sx), (py, px) = grids
        feature = ImageFeatures(
            torch.randn(sy * sx, widths.tower.output_width), torch.randn(py * px, widths.pixel.code_width)
        )
        self.features.append([feature] if has_input else [])

    def batch(self, rows: Sequence[Sequence[int]], row_tokens: int, device: str) -> PackedBatch:
        """Rows of samples, by their numbers."""
        built: list[PackedRow] = [
            build_row([self.samples[number] for number in row], row_tokens=row_tokens, pad_id=0) for row in rows
        ]

        def stacked(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([getattr(row, name) for row in built]).astype(np.int64))

        return PackedBatch(
            ids_BT=stacked("ids"),
            labels_BT=stacked("labels"),
            positions_BT=stacked("positions"),
            segments_BT=stacked("segments"),
            features=[image for row in rows for number in row for image in self.features[number]],
        ).to(device)


def train(model: UnifiedMllm, batches: Sequence[PackedBatch]) -> float:
    """Compute the gradients of all batches; returns the summed loss."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(batch).loss_sum
        loss.backward()
        total += loss.item()
    return total


@click.command()
@click.option("--samples", "count", default=48, show_default=True)
@click.option("--row-tokens", default=512, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(count: int, row_tokens: int, device: str, repeats: int) -> None:
    """Print the table."""
    model = make_model(device)
    mixture = Mixture(model, count)
    lengths = np.array([len(sample.ids) for sample in mixture.samples])
    bounds = [0, *row_starts(lengths, row_tokens), count]
    rows = [list(range(begin, end)) for begin, end in pairwise(bounds)]
    packed = [mixture.batch(rows[start : start + 2], row_tokens, device) for start in range(0, len(rows), 2)]
    padded = [
        mixture.batch([[number] for number in chosen], int(lengths[chosen].max()), device)
        for chosen in np.array_split(np.arange(count), -(-count // PADDED_ROWS))
    ]
    runs = {"padded to the longest sample of a batch": padded, "packed rows": packed}
    losses = {name: train(model, batches) for name, batches in runs.items()}
    seconds = seconds_in_turns({name: lambda b=batches: train(model, b) for name, batches in runs.items()}, repeats)
    base = next(iter(runs))
    print_rates(
        f"{count} samples of {lengths.min()} to {lengths.max()} tokens, {lengths.sum():,} real tokens, {device}",
        dict.fromkeys(runs, float(lengths.sum())),
        seconds,
        "tokens/s",
        base,
    )
    for name, batches in runs.items():
        slots = sum(batch.ids_BT.numel() for batch in batches)
        click.echo(f"  {name}: {lengths.sum() / slots:.0%} of {slots:,} token slots are real, loss {losses[name]:.3f}")


if __name__ == "__main__":
    main()
