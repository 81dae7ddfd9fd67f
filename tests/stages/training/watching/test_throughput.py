"""Tokens per second, padding and the share of the peak."""

import pytest
import torch

from stages.training.watching.throughput import peak_flops, peak_of_name, throughput_metrics


def test_the_share_of_the_peak_counts_all_workers_and_all_seconds() -> None:
    found = throughput_metrics(tokens=8192, padding=819.2, step_s=2.0, step_flops=6e15, peak=1e15, workers=6)
    assert found == pytest.approx({"tokens_per_s": 4096, "padding_share": 0.1, "mfu": 0.5})


def test_what_is_not_known_is_no_metric() -> None:
    assert throughput_metrics(tokens=0, padding=0, step_s=1.0, step_flops=6e15, peak=0.0, workers=1) == {}
    assert throughput_metrics(tokens=0, padding=0, step_s=1.0, step_flops=0.0, peak=1e15, workers=1) == {}


def test_a_peak_is_found_by_the_driver_s_name_and_a_stated_one_counts_first() -> None:
    assert peak_of_name("NVIDIA H100 80GB HBM3") == pytest.approx(989.4e12)
    assert peak_of_name("Some Chip 9000") == 0.0
    cpu = torch.device("cpu")
    assert peak_flops(cpu, 0.0) == 0.0
    assert peak_flops(cpu, 0.5) == 0.5e12
