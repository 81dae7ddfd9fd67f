"""The recipe that evaluates the quickstart's models on fresh scenes, and the choice of the worst seed."""

from pathlib import Path

from orchestrator.recipe.loading import load_recipe
from stages import STAGE_KINDS
from tests.benchmarks.figures import FRESH_STAGES, RECIPE, with_fresh_world, worst


def test_the_recipe_is_the_quickstart_with_an_evaluation_on_a_world_of_another_seed(tmp_path: Path) -> None:
    path = tmp_path / "figures.yaml"
    path.write_text(with_fresh_world(RECIPE.read_text(encoding="utf-8"), samples=300))
    stages = {stage.id: stage for stage in load_recipe(path, STAGE_KINDS).stages}
    quickstart = {stage.id: stage for stage in load_recipe(RECIPE, STAGE_KINDS).stages}
    assert {name: stages[name] for name in quickstart} == quickstart
    assert stages.keys() - quickstart.keys() == FRESH_STAGES
    fresh, own = stages["fresh_shapes"].config, quickstart["shapes"].config
    assert fresh.seed != own.seed
    assert (fresh.colours, fresh.image_sizes, fresh.max_shapes) == (own.colours, own.image_sizes, own.max_shapes)
    assert stages["figures"].config.samples.editing == 300
    assert stages["figures"].config.generation == quickstart["evaluated"].config.generation


def test_the_worst_is_chosen_for_each_score_with_its_own_interval() -> None:
    first = {"editing/exact": 0.8, "editing/exact/low": 0.7, "editing/ssim": 0.4, "editing/samples": 9.0}
    second = {"editing/exact": 0.6, "editing/exact/low": 0.5, "editing/ssim": 0.5, "editing/samples": 9.0}
    assert worst([first, second]) == {
        "editing/exact": 0.6,
        "editing/exact/low": 0.5,
        "editing/ssim": 0.4,
        "editing/samples": 9.0,
    }
