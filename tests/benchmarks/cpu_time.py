"""The CPU time of a process and everything that it started, for benchmarks."""

import threading
import time

import psutil

SAMPLE_S = 0.25


class TreeCpu:
    """Context manager: CPU seconds of this process and all below it while it is open.

    Processes that end in between are counted up to the last sample, at most `SAMPLE_S` before their end. What the
    sampling itself costs, more than a shard on a machine with many processes, is not counted.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.own_seconds = 0.0  # of this process alone
        self._root = psutil.Process()
        self._sampling_s = 0.0
        self._seen: dict[tuple[int, float], float] = {}  # by pid and start time
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample_until_stopped, name="cpu", daemon=True)

    def __enter__(self) -> "TreeCpu":
        self._sample()
        self._before, self._sampling_s = dict(self._seen), 0.0
        self._own_before_s = time.process_time()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()
        self._sample()
        used_s = sum(seconds - self._before.get(process, 0.0) for process, seconds in self._seen.items())
        self.seconds = used_s - self._sampling_s
        self.own_seconds = time.process_time() - self._own_before_s - self._sampling_s

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        began_s = time.thread_time()
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                used = process.cpu_times()
                self._seen[process.pid, process.create_time()] = used.user + used.system
            except psutil.Error:  # it has just ended
                continue
        self._sampling_s += time.thread_time() - began_s
