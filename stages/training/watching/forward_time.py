"""Seconds that the forward passes of a worker take. On a GPU its own clock measures them, and nothing waits for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stages.training.program import Pass


class ForwardTime:
    """Adds up the time that the modules of some passes take; hooks them when it is made."""

    def __init__(self, passes: Sequence[Pass], device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._began_s = self._total_s = 0.0
        self._counts = True
        self._open: Any = None
        self._pairs: list[tuple[Any, Any]] = []
        self._hooks = [
            hook
            for training_pass in passes
            for hook in (
                training_pass.module.register_forward_pre_hook(self._begin),
                training_pass.module.register_forward_hook(self._end),
            )
        ]

    def take(self) -> float:
        """Seconds since the last call. On a GPU, to be called when its work is done."""
        for began, ended in self._pairs:
            ended.synchronize()
            self._total_s += began.elapsed_time(ended) / 1000
        self._pairs.clear()
        total_s, self._total_s = self._total_s, 0.0
        return total_s

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Passes inside it do not count."""
        before, self._counts = self._counts, False
        try:
            yield
        finally:
            self._counts = before

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, _arguments: Any) -> None:
        if not self._counts:
            return
        if self._is_cuda:
            self._open = torch.cuda.Event(enable_timing=True)
            self._open.record()
        else:
            self._began_s = time.perf_counter()

    def _end(self, module: nn.Module, _arguments: Any, _output: Any) -> None:
        if not self._counts:
            return
        if self._is_cuda:
            ended = torch.cuda.Event(enable_timing=True)
            ended.record()
            self._pairs.append((self._open, ended))
        else:
            self._total_s += time.perf_counter() - self._began_s
