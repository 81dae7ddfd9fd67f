from itertools import takewhile
from pathlib import Path

import pytest

import clusters
from clusters.planner.estimate import Assumptions
from clusters.planner.machines import machine_from_text
from clusters.planner.prices import load_prices
from clusters.planner.recipes import (
    StageEstimate,
    config_tree,
    estimate_plan,
    refuse_what_cannot_fit,
    strategies_of,
)
from orchestrator.errors import PrecheckError
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.stage_identity import PlanView
from stages.training.config import TrainingExecution
from tests.stages.programs import published

PRICES = load_prices()


def plan(name: str, *overrides: str) -> Plan:
    view = PlanView(find=lambda _key: None, previous=lambda *_: None, sources=lambda _stage: {})
    return make_plan(published.recipe(name, *overrides), view, PlanOptions())


def test_every_training_of_a_published_recipe_is_estimated() -> None:
    found = estimate_plan(plan("illume_plus_3b"), {"h200": machine_from_text("64xH200")}, PRICES, Assumptions())
    trainings = [estimate for estimate in found if estimate.facts]
    assert len(trainings) == 9
    assert all(estimate.chosen for estimate in trainings)
    others = [estimate for estimate in found if not estimate.facts]
    assert {estimate.unknown for estimate in others} == {"never timed"}


def test_the_table_in_the_readme_is_what_is_computed() -> None:
    """Needs of one accelerator, verdicts and hours of both published recipes on the three machines that it names."""
    readme = (Path(clusters.__file__).parent / "README.md").read_text().splitlines()
    start = readme.index("| stage | model | GiB | 64 H100 | 64 H200 | 8 L40S |")
    rows = [line.strip("| ").split(" | ") for line in takewhile(bool, readme[start + 2 :])]
    machines = {name: machine_from_text(name) for name in ("64xH100", "64xH200", "8xL40S")}
    found = {
        size: {
            estimate.stage_id: _cells(estimate)
            for estimate in estimate_plan(plan(f"illume_plus_{size}"), machines, PRICES, Assumptions())
            if estimate.facts
        }
        for size in ("3b", "7b")
    }
    for stage, model, *cells in rows:
        for size in found if model == "both" else (model,):
            assert cells == found[size].pop(stage), (stage, size)
    assert found == {"3b": {}, "7b": {}}  # none is left out


def _cells(estimate: StageEstimate) -> list[str]:
    cells = [f"{estimate.trainings[0].verdict.parts.total / 2**30:.1f}"]
    for training in estimate.trainings:
        change = training.verdict.change_text.replace(", which running out of memory makes by itself", "")
        verdict = "fits" if training.verdict.fits else change if training.possible else "no change fits"
        cells.append(f"{verdict}, {training.gpu_hours.expected:,.0f} h" if training.possible else verdict)
    return cells


def test_the_model_that_a_stage_goes_on_from_gives_its_sizes() -> None:
    found = plan("illume_plus_3b")
    stage = next(planned for planned in found.stages if planned.id == "stage_3")
    tree = config_tree(found, stage)
    start = tree.first("start")
    assert start is not None
    assert start.config.phase == "stage2.5"


def test_what_fits_nowhere_is_refused_before_it_runs() -> None:
    machines = {"train": machine_from_text("8xL40S")}
    with pytest.raises(PrecheckError, match=r"stages\.stage_2: needs .* GiB on each L40S \(train\).*strategy: fsdp2"):
        refuse_what_cannot_fit(plan("illume_plus_3b"), machines, PRICES)
    refuse_what_cannot_fit(plan("illume_plus_3b"), {"train": machine_from_text("64xH200")}, PRICES)


def test_rows_that_fit_no_gpu_are_refused_with_the_workers_that_could_share_them() -> None:
    machines = {"train": machine_from_text("64xH200")}
    long = ["stages.stage_2.config.data.row_tokens=524288"]
    with pytest.raises(PrecheckError, match=r"stages\.stage_2: .*fits with sequence_workers: 2, strategy: fsdp2"):
        refuse_what_cannot_fit(plan("illume_plus_3b", *long), machines, PRICES)
    asked = ["sequence_workers=2", "strategy=fsdp2"]
    refuse_what_cannot_fit(
        plan("illume_plus_3b", *long, *(f"stages.stage_2.execution.{setting}" for setting in asked)), machines, PRICES
    )


def test_what_smaller_micro_batches_make_fit_is_not_refused() -> None:
    """Running out of memory makes them by itself."""
    machines = {"train": machine_from_text("64xH100")}
    found = {
        estimate.stage_id: estimate
        for estimate in estimate_plan(plan("illume_plus_3b"), machines, PRICES, Assumptions())
    }
    (decoder,) = found["decoder"].trainings
    assert not decoder.verdict.fits
    assert decoder.verdict.works
    refuse_what_cannot_fit(plan("illume_plus_3b"), machines, PRICES)


def test_one_machine_type_that_fits_is_enough() -> None:
    machines = {"small": machine_from_text("8xL40S"), "large": machine_from_text("64xH200")}
    refuse_what_cannot_fit(plan("illume_plus_3b"), machines, PRICES)


def test_nothing_is_refused_without_accelerators() -> None:
    refuse_what_cannot_fit(plan("illume_plus_7b"), {}, PRICES)


def test_an_adopted_model_is_unknown_and_not_refused() -> None:
    found = estimate_plan(plan("published_3b"), {"h100": machine_from_text("8xH100")}, PRICES, Assumptions())
    assert all(estimate.chosen is None for estimate in found)


def test_strategies_are_those_that_the_execution_allows() -> None:
    assert "ddp" in strategies_of(TrainingExecution)
    assert strategies_of(object) == ("ddp",)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_training_by_deepspeed_is_estimated_with_the_stage_of_its_execution(stage: int) -> None:
    asked = ["stages.stage_2.execution.strategy=deepspeed", f"stages.stage_2.execution.zero_stage={stage}"]
    machines = {"train": machine_from_text("8xH200")}
    found = estimate_plan(plan("illume_plus_3b", *asked), machines, PRICES, Assumptions())
    (training,) = next(estimate for estimate in found if estimate.stage_id == "stage_2").trainings
    assert training.verdict.layout.strategy == f"zero{stage}"
