"""The examples of the front page and of `stages/README.md` are run as they are printed there."""

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import exit_code
from orchestrator.plugins.loading import STAGES_GROUP
from orchestrator.plugins.recipes import RECIPES_GROUP
from orchestrator.stage import Location, StageContext, StageKind
from tests.data_pipelines.conftest import Wanted, write_dataset

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "stages" / "README.md"
MAX_LINES = 25  # without blank lines


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ProvideConfig:
    folder: Location


def provide(config: ProvideConfig, context: StageContext) -> Mapping[str, float]:
    shutil.copytree(config.folder, context.output, dirs_exist_ok=True)
    return {}


PROVIDE = StageKind(name="provide", version=1, config=ProvideConfig, run=provide, output="dataset@1")


def test_the_stage_of_the_example_counts_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = blocks("python", ROOT / "README.md")[0]
    assert sum(bool(line.strip()) for line in example.splitlines()) <= MAX_LINES
    dataset = tmp_path / "dataset"
    write_dataset(dataset, [Wanted(task="text", turns=("a red circle", "a blue square"))])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")
    (tmp_path / "count_words.py").write_text(example)
    (tmp_path / "recipe.yaml").write_text(
        f"name: words\nstages:\n  curated: {{kind: provide, config: {{folder: {dataset}}}}}\n{blocks('yaml')[0]}"
    )
    command = next(line for line in README.read_text().splitlines() if line.startswith("    illume run"))
    words = command.replace("my_recipe.yaml", "recipe.yaml").split()[1:]
    assert exit_code(words, {"provide": PROVIDE}) == 0, capsys.readouterr().err
    (found,) = tmp_path.glob(".illume/store/artifacts/count_words/*/*/attempts/*/data/words.json")
    assert ["a", 2] in json.loads(found.read_text())


def test_the_groups_of_entry_points_are_those_that_are_read() -> None:
    groups = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    assert set(groups) == {STAGES_GROUP, RECIPES_GROUP}


def test_the_declaration_of_a_training_fits_its_types() -> None:
    from orchestrator.learning import Exposures, Learned

    given: dict[str, Any] = {
        "Training": Mapping, "MyConfig": int, "Samples": Mapping, "Exposures": Exposures, "Learned": Learned,
        "StageKind": lambda *_things, learned: learned,
        "my_order": lambda _config, _folders: ["a", "b", "a"],
    }  # fmt: skip
    code = blocks("python")[0].replace("Training[MyConfig]", "Training")
    exec(compile(code, str(README), "exec"), given)  # noqa: S102 - the text is ours

    class Ended:
        config = 0

        def inputs(self, _slot: str) -> tuple[Path, ...]:
            return ()

    exposures = given["MY_TRAINING"].exposures(Ended(), {"a": (), "c": ()})
    assert exposures == Exposures(num_steps=3, steps={"a": [0, 2], "c": []})
