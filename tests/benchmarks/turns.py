"""Measures that take turns, so that a noisy neighbour disturbs all of them alike; medians and ratios are shown."""

import statistics
import time
from collections.abc import Callable, Mapping

import click


def seconds_in_turns(
    measures: Mapping[str, Callable[[], object]], repeats: int, tidy: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median wall seconds of each measure, after one round that is not counted; `tidy` runs between them, untimed."""
    times_s: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(repeats + 1):
        for name, measure in measures.items():
            began = time.perf_counter()
            measure()
            if number:
                times_s[name].append(time.perf_counter() - began)
            tidy()
    return {name: statistics.median(times) for name, times in times_s.items()}


def print_rates(title: str, amounts: Mapping[str, float], seconds: Mapping[str, float], unit: str, base: str) -> None:
    """A row per measure: amount per second, and the ratio to the row `base`."""
    click.echo(title)
    base_rate = amounts[base] / seconds[base]
    for name, taken in seconds.items():
        rate = amounts[name] / taken
        click.echo(f"  {name:52} {rate:10.2f} {unit}   {rate / base_rate:6.2f}x")
