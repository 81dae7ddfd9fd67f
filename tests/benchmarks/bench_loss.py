"""Compares the loss in chunks with that over full scores: peak memory and time of one forward and backward pass.

Run: python tests/benchmarks/bench_loss.py [--tokens 4096] [--vocabulary 283047] [--width 256] [--device cpu]
         [--chunk-mib 256 --chunk-mib 2048]
Every chunk reads and writes the gradient of the whole table, so few large ones cost less than many small ones. On a CPU
the time is that of all its cores.
 variant runs in a process of its own, so that its peak is its own; the variants take turns.
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

CHUNKS_MIB = (64, 256, 1024)  # 256 is the default of the model's configuration


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


def chunked(hidden: Tensor, tables: list[Tensor], targets: Tensor, mib: int) -> Tensor:
    weights = torch.ones(len(targets), device=hidden.device)
    return chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=mib * 2**20)[0]


def measure(chunk_mib: int, tokens: int, vocabulary: int, width: int, device: str) -> dict[str, float]:
    """Seconds, peak MiB and loss of one forward and backward; `chunk_mib` 0: over full scores."""
    torch.manual_seed(0)
    text = min(151_665, vocabulary // 2)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        hidden = torch.randn(tokens, width, dtype=dtype).requires_grad_()
        tables = [(0.02 * torch.randn(rows, width, dtype=dtype)).requires_grad_() for rows in (text, vocabulary - text)]
        targets = torch.randint(vocabulary, (tokens,))
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    with PeakMemory(device) as memory:
        whole = chunk_mib == 0
        loss = full_scores(hidden, tables, targets) if whole else chunked(hidden, tables, targets, chunk_mib)
        loss.backward()
        value = loss.item()
    return {"seconds": clock() - began, "mib": memory.mib, "loss": value / tokens}


@click.command()
@click.option("--tokens", default=4096, show_default=True)
@click.option("--vocabulary", default=283_047, show_default=True)
@click.option("--width", default=256, show_default=True, help="Of the hidden state; published 2048.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--chunk-mib", type=int, multiple=True, default=CHUNKS_MIB, show_default=True)
@click.option("--only", type=int, help="Run one size of chunks in this process, 0 for full scores; prints JSON.")
def main(
    tokens: int, vocabulary: int, width: int, device: str, repeats: int, chunk_mib: tuple[int, ...], only: int | None
) -> None:
    """Print the table."""
    if only is not None:
        click.echo(json.dumps(measure(only, tokens, vocabulary, width, device)))
        return
    settings = [f"--tokens={tokens}", f"--vocabulary={vocabulary}", f"--width={width}", f"--device={device}"]
    found: dict[int, list[dict[str, float]]] = {mib: [] for mib in (0, *chunk_mib)}
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
        chunks = -(-tokens // max(1, kind * 2**20 // (4 * vocabulary))) if kind else 1
        click.echo(
            f"  {f'{chunks} chunks of {kind} MiB' if kind else 'full scores':22}"
            f" {values['seconds']:8.2f} s ({values['seconds'] / medians[0]['seconds']:5.2f}x)"
            f" {values['mib']:9.0f} MiB ({values['mib'] / medians[0]['mib']:6.3f}x)   loss {values['loss']:.5f}"
        )


if __name__ == "__main__":
    main()
