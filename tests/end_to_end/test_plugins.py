"""A package of somebody else, built and installed by pip: its stages are run, watched, traced and taken down."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.desk import TINY, Desk
from tests.orchestrator.reference.test_outputs import check_output

pytestmark = pytest.mark.timeout(600)

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "word-kit"
version = "1.0"

[project.entry-points."illume.stages"]
words = "word_kit.kinds:KINDS"

[project.entry-points."illume.recipes"]
words = "word_kit.recipes"

[tool.setuptools]
packages = ["word_kit", "word_kit.recipes"]
package-data = {"word_kit.recipes" = ["*.yaml"]}
"""
COUNTING = '''\
def count(text: str) -> int:
    """The number of words."""
    return len(text.split())
'''
KINDS = '''\
"""Counts words, and learns which samples exist."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.learning import Exposures, Learned, Samples, Training
from orchestrator.stage import Slot, StageContext, StageKind
from word_kit.counting import count


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    text: str


def count_words(config: CountConfig, context: StageContext) -> Mapping[str, float]:
    (context.output / "words.json").write_text(json.dumps(count(config.text)))
    return {"words": count(config.text)}


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    passes: int


def order(config: LearnConfig, datasets: tuple[Path, ...]) -> list[str]:
    """The sample of each step."""
    from data_pipelines.datasets.reader import CuratedDataset

    ids = []
    for dataset in map(CuratedDataset, datasets):
        for shard in dataset.shards:
            rows = dataset.rows(shard)
            ids += [row.tobytes().hex() for row in rows.ids]
    return ids * config.passes


def learn(config: LearnConfig, context: StageContext) -> Mapping[str, float]:
    steps = order(config, tuple(artifact.path for artifact in context.inputs("datasets")))
    (context.output / "model.json").write_text(json.dumps(len(steps)))
    return {"steps": len(steps)}


def exposures(training: Training[LearnConfig], samples: Samples) -> Exposures:
    steps = order(training.config, training.inputs("datasets"))
    return Exposures(
        num_steps=len(steps),
        steps={name: [step for step, found in enumerate(steps) if found == name] for name in samples if name in steps},
    )


KINDS = [
    StageKind(name="count_words", version=1, config=CountConfig, run=count_words, output="words@1"),
    StageKind(
        name="learn_samples",
        version=1,
        config=LearnConfig,
        run=learn,
        inputs={"datasets": Slot(kind="dataset@1", many=True)},
        output="memory@1",
        learned=Learned(exposures=exposures),
    ),
    StageKind(
        name="learn_secretly",
        version=1,
        config=LearnConfig,
        run=learn,
        inputs={"datasets": Slot(kind="dataset@1", many=True)},
        output="memory@1",
        learned=Learned(),
    ),
]
'''
RECIPE = """\
# Counts a few words.
name: counted
stages:
  counted: {kind: count_words, config: {text: one two three}}
"""
LEARNING = """\
name: learning
stages:
  shapes:
    kind: generate_shapes
    config:
      seed: 3
      understanding: 4
      generation: 4
      editing: 0
      text: 4
      val_share: 0.0
      lines_per_file: 12
      image_sizes: [[32, 32]]
      min_shapes: 1
      max_shapes: 1
      sizes: [large]
      varied_wording: false
  ingested: {kind: ingest, inputs: {raw: shapes}, config: {read: {source: shapes}}}
  curated:
    kind: curate
    inputs: {records: ingested}
    config: {anchors: [[32, 32]], min_side: 24, min_sharpness: 0.0}
  learned: {kind: learn_samples, inputs: {datasets: [curated]}, config: {passes: 2}}
  secret: {kind: learn_secretly, inputs: {datasets: [curated]}, config: {passes: 1}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages into which pip has installed `word-kit`."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed here, and the package is built without a network")
    project, site = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    (project / "pyproject.toml").write_text(PROJECT)
    package = project / "word_kit"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "kinds.py").write_text(KINDS)
    (package / "counting.py").write_text(COUNTING)
    (package / "recipes" / "__init__.py").write_text("")
    (package / "recipes" / "counted.yaml").write_text(RECIPE)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def desk(site: Path, tmp_path: Path) -> Desk:
    environment = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "ILLUME_TRACKING": "none"}
    return Desk(folder=tmp_path, environment=environment)


def test_a_changed_body_of_an_installed_stage_is_refused(desk: Desk, site: Path) -> None:
    desk.illume("run", "counted")  # a recipe by entry point, of a kind by entry point
    assert desk.actions("counted") == {"counted": "reuse"}
    assert desk.events()[0]["fields"]["plugins"] == [
        {"target": "word_kit.kinds:KINDS", "distribution": "word-kit", "version": "1.0", "kinds": ["count_words"]}
    ]
    (made,) = desk.artifacts().values()
    assert made.manifest.provenance["plugin"] == {
        "target": "word_kit.kinds:KINDS", "distribution": "word-kit", "version": "1.0"
    }  # fmt: skip
    counting = site / "word_kit" / "counting.py"
    counting.write_text(COUNTING.replace("The number of words.", "How many words there are."))
    assert desk.plan("counted", "--code", "fail")["counted"]["action"] == "reuse"
    counting.write_text(COUNTING.replace("text.split()", "text.split('o')"))
    try:
        refused = desk.illume("plan", "counted", "--code", "fail", code=2)
        assert "counted: word_kit/counting.py" in refused.err
        assert desk.actions("counted", "--code", "rerun") == {"counted": "run"}
    finally:
        counting.write_text(COUNTING)


@pytest.mark.ray
def test_a_takedown_reaches_what_a_foreign_training_learned(desk: Desk) -> None:
    (desk.folder / "learning.yaml").write_text(LEARNING)
    desk.illume("run", "learning.yaml")
    name = "text-train-000001"

    trace = desk.illume("trace", name, "--json").data
    (exposure,) = trace["exposures"]
    num_samples = trace["steps"]["learned"] // 2
    assert exposure["stage"] == "learned"
    assert exposure["steps"] == [exposure["steps"][0], exposure["steps"][0] + num_samples]
    assert (trace["saw"], trace["unknown"]) == (["learned"], ["secret"])

    bare = Desk(folder=desk.folder, environment={"ILLUME_TRACKING": "none"})  # without the package
    refused = bare.illume("trace", name, code=2)
    assert "made with plugin word-kit 1.0" in refused.err
    assert "pip install word-kit==1.0" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    blind = bare.illume("takedown", "plan", name, "--id", "T0", "--json").data
    assert "pip install word-kit==1.0" in blind["untraceable"][0]
    kept = {artifact["stage_id"]: artifact for artifact in blind["takedown"]["tainted"] if artifact["is_kept"]}
    assert "cannot be shown clean" in kept["learned"]["why"], "known from its manifest"

    plan = desk.illume("takedown", "plan", name, "--id", "T1", "--json").data
    tainted = {artifact["stage_id"]: artifact for artifact in plan["takedown"]["tainted"]}
    assert {stage: artifact["is_kept"] for stage, artifact in tainted.items()} == {
        "ingested": False, "curated": False, "learned": True, "secret": True
    }  # fmt: skip
    assert tainted["learned"]["why"].startswith("saw it in 2 steps, first in step ")
    assert "'learn_secretly' does not say which samples it learned from" in tainted["secret"]["why"]
    (rerun,) = plan["reruns"]
    assert rerun["stages"] == ["ingested", "curated", "learned", "secret"]

    desk.illume("takedown", "apply", "T1.takedown.json", "--delete")
    again = desk.plan("learning.yaml")
    assert [stage for stage, planned in again.items() if planned["action"] == "run"] == rerun["stages"]
    assert again["learned"]["reasons"][0] == {"type": "tainted", "takedown": "T1"}
    assert "learned" in {made.manifest.provenance["stage"] for made in desk.artifacts().values()}, "marked, not deleted"


BUNDLE = '''\
"""A stage of somebody else that puts the models together which are then used."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.learning import Serving
from orchestrator.stage import Slot, StageContext, StageKind


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    name: str


def bundle(config: BundleConfig, context: StageContext) -> Mapping[str, float]:
    (context.output / "name").write_text(config.name)
    return {}


BUNDLE = StageKind(
    name="bundle",
    version=1,
    config=BundleConfig,
    run=bundle,
    inputs={"tokenizer": Slot(kind="tokenizer@1"), "mllm": Slot(kind="mllm@1")},
    output="bundle@1",
    serving=Serving(models={"tokenizer": "tokenizer", "mllm": "mllm"}),
)
'''


def test_images_are_drawn_with_the_models_that_a_foreign_kind_names(finished: Desk, tmp_path: Path) -> None:
    """Nothing built in says which models belong together: the recipe has neither `evaluate` nor `export`."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    desk = Desk(folder=tmp_path, environment={"ILLUME_TRACKING": "none"})
    (tmp_path / "bundle.py").write_text(BUNDLE)
    recipe = TINY.read_text()
    before = recipe[: recipe.index("  evaluated:")].replace("name: tiny", "name: bundled")
    own = "  bundled:\n    kind: bundle\n    inputs: {tokenizer: tokenizer, mllm: mllm_1}\n    config: {name: mine}\n"
    (tmp_path / "bundled.yaml").write_text(before + own)
    plugin = ("--plugin", f"{tmp_path / 'bundle.py'}:BUNDLE")
    ran = desk.illume("run", "bundled.yaml", *plugin)
    assert "1 to run" in ran.out
    drawn = desk.illume(
        "generate", "a red circle", "--run", "bundled", "--out", "drawn.png", "--seed", "1", "--json", *plugin
    )
    check_output("generate", drawn.data)
    assert drawn.data["files"] == ["drawn.png"]
    with Image.open(tmp_path / "drawn.png") as image:
        assert min(image.size) > 0
