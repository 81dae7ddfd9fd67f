"""What a strategy lacks is said before a worker starts, with the smallest change that would work."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from orchestrator.errors import PrecheckError
from orchestrator.stage import Resources
from stages.programs.decoder import DecoderProgram
from stages.programs.mllm import MllmProgram
from stages.training.config import OptimizerConfig, TrainingExecution
from stages.training.strategies.prechecks import check_package, check_strategy, check_units

HSDP = TrainingExecution(strategy="fsdp2", shard_workers=8)


@dataclass(frozen=True)
class Hidden:
    values: torch.Tensor


class Pair(NamedTuple):
    values: torch.Tensor
    weights: torch.Tensor


class HidingLayer(nn.Module):
    def forward(self, values: torch.Tensor) -> Hidden:
        return Hidden(values)


class PairLayer(nn.Module):
    def forward(self, values: torch.Tensor) -> Pair | None:
        return Pair(values, values)


class SilentLayer(nn.Module):
    def forward(self, values):  # type: ignore[no-untyped-def]  # as many a layer of other packages
        return values


class HidingProgram:
    unit_types = (HidingLayer,)


def test_the_fewest_workers_of_an_elastic_training_count_too() -> None:
    check_strategy(HSDP, Resources(workers=64), MllmProgram)
    with pytest.raises(PrecheckError, match="does not divide 12 workers"):
        check_strategy(HSDP, Resources(workers=64, min_workers=12), MllmProgram)


def test_a_package_that_is_not_installed_is_refused_with_what_works_without_it() -> None:
    with pytest.raises(
        PrecheckError, match=r"package no_such_package is not installed; set strategy: fsdp2, .* install"
    ):
        check_package("no_such_package")


def test_layers_whose_outputs_are_not_found_are_refused_with_the_stage_that_works() -> None:
    with pytest.raises(
        PrecheckError, match=r"zero_stage: 3 with layers HidingLayer, which return Hidden.*zero_stage: 2"
    ):
        check_units(HidingProgram.unit_types)
    check_units([PairLayer, SilentLayer, nn.Linear])


def test_it_is_asked_of_the_program_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.training.strategies.prechecks.check_package", lambda: None)
    for stage in (1, 2):
        check_strategy(zero(stage), Resources(workers=2), HidingProgram)
    with pytest.raises(PrecheckError, match="layers HidingLayer"):
        check_strategy(zero(3), Resources(workers=2), HidingProgram)
    for program in (MllmProgram, DecoderProgram):
        check_strategy(zero(3), Resources(workers=2), program)


def test_states_in_bf16_are_refused_where_the_strategy_keeps_them_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.training.strategies.prechecks.check_package", lambda: None)
    halved = OptimizerConfig(states="bf16")
    with pytest.raises(PrecheckError, match=r"states: bf16 with .*deepspeed, .*; set strategy: fsdp2"):
        check_strategy(zero(2), Resources(workers=2), HidingProgram, halved)
    for execution in (HSDP, TrainingExecution()):
        check_strategy(execution, Resources(workers=8), MllmProgram, halved)


def test_muon_is_refused_where_matrices_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.training.strategies.prechecks.check_package", lambda: None)
    muon = OptimizerConfig(name="muon")
    for execution in (HSDP, zero(2)):
        with pytest.raises(PrecheckError, match=r"muon with .*strategy: .*whole; set strategy: ddp, or name: adamw"):
            check_strategy(execution, Resources(workers=8), MllmProgram, muon)
    check_strategy(TrainingExecution(), Resources(workers=8), MllmProgram, muon)


def zero(stage: int) -> TrainingExecution:
    return TrainingExecution(strategy="deepspeed", zero_stage=stage)
