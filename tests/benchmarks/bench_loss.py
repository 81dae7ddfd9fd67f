"""Compares the loss in chunks with that over full scores: peak memory and time of one forward and backward pass.

Run: python tests/benchmarks/bench_loss.py [--tokens 4096] [--vocabulary 283047] [--width 256] [--device cpu]
Each variant runs in a process of its own, so that its peak is its own; the variants take turns.
"""

import json
import statistics
import subprocess
import sys
import threading
import time

import click
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from models.mllm.loss import chunked_cross_entropy

CHUNK_BYTES = 256 * 2**20  # the default of the model's configuration


class PeakMemory:
    """The peak memory of this process during the block, above its memory before."""

    def __init__(self, device: str) -> None:
        self._device, self._process = device, psutil.Process()
        self._most, self._before, self._done = 0, 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, self._process.memory_info().rss)

    def __enter__(self) -> "PeakMemory":
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = self._most = self._process.memory_info().rss
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device == "cpu":
            self._done.set()
            self._watcher.join()

    @property
    def mib(self) -> float:
        most = self._most if self._device == "cpu" else torch.cuda.max_memory_allocated()
        return (most - self._before) / 2**20


def full_scores(hidden: Tensor, tables: list[Tensor], targets: Tensor) -> Tensor:
    """All scores in fp32 at once, as published."""
    return F.cross_entropy((hidden @ torch.cat(tables).T).float(), targets, reduction="sum")


def chunked(hidden: Tensor, tables: list[Tensor], targets: Tensor) -> Tensor:
    weights = torch.ones(len(targets), device=hidden.device)
    return chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=CHUNK_BYTES)[0]


def measure(kind: str, tokens: int, vocabulary: int, width: int, device: str) -> dict[str, float]:
    """Seconds, peak MiB and loss of one forward and backward."""
    torch.manual_seed(0)
    text = min(151_665, vocabulary // 2)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        hidden = torch.randn(tokens, width, dtype=dtype).requires_grad_()
        tables = [(0.02 * torch.randn(rows, width, dtype=dtype)).requires_grad_() for rows in (text, vocabulary - text)]
        targets = torch.randint(vocabulary, (tokens,))
    began = time.perf_counter()
    with PeakMemory(device) as memory:
        loss = (full_scores if kind == "full" else chunked)(hidden, tables, targets)
        loss.backward()
        value = loss.item()
    return {"seconds": time.perf_counter() - began, "mib": memory.mib, "loss": value / tokens}


@click.command()
@click.option("--tokens", default=4096, show_default=True)
@click.option("--vocabulary", default=283_047, show_default=True)
@click.option("--width", default=256, show_default=True, help="Of the hidden state; published 2048.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--only", type=click.Choice(["full", "chunked"]), help="Run one variant in this process; prints JSON.")
def main(tokens: int, vocabulary: int, width: int, device: str, repeats: int, only: str | None) -> None:
    """Print the table."""
    if only:
        click.echo(json.dumps(measure(only, tokens, vocabulary, width, device)))
        return
    settings = [f"--tokens={tokens}", f"--vocabulary={vocabulary}", f"--width={width}", f"--device={device}"]
    found: dict[str, list[dict[str, float]]] = {"full": [], "chunked": []}
    for _ in range(repeats):
        for kind, results in found.items():
            done = subprocess.run(
                [sys.executable, __file__, *settings, f"--only={kind}"], capture_output=True, text=True, check=True
            )
            results.append(json.loads(done.stdout))
    click.echo(f"{tokens} tokens, {vocabulary:,} ids, width {width}, {device}, medians of {repeats}")
    medians = {
        kind: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for kind, results in found.items()
    }
    for kind, values in medians.items():
        click.echo(
            f"  {kind:8} {values['seconds']:8.2f} s ({values['seconds'] / medians['full']['seconds']:5.2f}x)"
            f" {values['mib']:9.0f} MiB ({values['mib'] / medians['full']['mib']:6.3f}x)   loss {values['loss']:.5f}"
        )


if __name__ == "__main__":
    main()
