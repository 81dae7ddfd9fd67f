"""A recipe file becomes a typed recipe, or one message with every mistake, its line, its path and the nearest name."""

import enum
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RecipeError
from orchestrator.recipe.loading import decode_recipe, load_recipe
from orchestrator.recipe.yaml_subset import parse_yaml
from orchestrator.stage import Location, Recipe, Resources, RetryPolicy, Slot, StageKind


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    folder: Location


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    min_side: int = 256
    rate: float = 1e-5
    upright: bool = True
    colour: Colour = Colour.RED
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    anchors: tuple[tuple[int, int], ...] = ((256, 256), (512, 512))
    optimizer: Optimizer = Optimizer(lr=3.0, betas=(0.1, 0.2))
    limit: int | str | None = None

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side: found {self.min_side}, expected at least 1")


def no_run(_config: Any, _context: Any) -> dict[str, float]:
    return {}


KINDS = {
    kind.name: kind
    for kind in (
        StageKind(name="ingest", version=1, config=IngestConfig, run=no_run, output="records@1"),
        StageKind(
            name="curate",
            version=1,
            config=CurateConfig,
            run=no_run,
            output="dataset@1",
            inputs={"records": Slot(kind="records@1"), "also": Slot(kind="records@1", many=True, required=False)},
        ),
    )
}

GOOD = """\
name: demo
stages:
  curated:                       # stands before its input
    kind: curate
    inputs: {records: ingested}
    config: {rate: 1e-4, anchors: [[1, 2], [3, 4]], min_side: 64}
    resources: {workers: 2, cpus: 1}
    retry: {attempts: 5}
  ingested: {kind: ingest, config: {folder: "s3://bucket/x"}}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    file = tmp_path / "demo.yaml"
    file.write_text(text)
    return load_recipe(file, KINDS, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_recipe_is_decoded_into_typed_stages_upstream_first(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.name, recipe.file) == ("demo", str(tmp_path / "demo.yaml"))
    ingested, curated = recipe.stages
    assert (ingested.id, ingested.config) == ("ingested", IngestConfig(folder=Location("s3://bucket/x")))
    assert type(ingested.config.folder) is Location
    assert curated.config == CurateConfig(rate=1e-4, anchors=((1, 2), (3, 4)), min_side=64)
    assert curated.inputs == {"records": ("ingested",)}
    assert (curated.resources, curated.retry) == (Resources(workers=2, cpus=1.0), RetryPolicy(attempts=5))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ("2", "found 2, but this illume reads recipes up to format 1; install a newer illume"),
        ("0", "found 0, expected 1; leave it out"),
        ("yes", "found 'yes' (text), expected 1; leave it out"),
    ],
)
def test_a_recipe_of_another_format_is_refused_in_one_line(found: str, problem: str, tmp_path: Path) -> None:
    text = f"format: {found}\n" + GOOD.replace("stages:", "steps:")  # which may be right there
    assert message(tmp_path, text) == f"demo.yaml:1: format: {problem}"
    assert load(tmp_path, "format: 1\n" + GOOD).name == "demo"


def test_a_whole_number_is_accepted_for_a_float_and_converted(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD.replace("1e-4", "2")).stages[1].config
    assert (config.rate, type(config.rate)) == (2.0, float)


def test_a_computed_recipe_is_decoded_like_a_file() -> None:
    data: Any = {"name": "computed", "stages": {"a": {"kind": "ingest", "config": {"folder": "/x"}}}}
    assert decode_recipe(data, KINDS).stages[0].config == IngestConfig(folder=Location("/x"))


MISTAKES = {
    "unknown top key": ("stages:", "stage:", ["stage: unknown key; did you mean 'stages'?", "stages: found none"]),
    "unknown stage key": (
        "retry:",
        "retries:",
        ["demo.yaml:8: stages.curated.retries: unknown key; did you mean 'retry'?"],
    ),
    "unknown kind": (
        "kind: curate",
        "kind: curat",
        ["demo.yaml:4: stages.curated.kind: found 'curat' (text); no such stage kind; did you mean 'curate'?"],
    ),
    "unknown config key": (
        "min_side",
        "min_sid",
        ["demo.yaml:6: stages.curated.config.min_sid: unknown key; did you mean 'min_side'?"],
    ),
    "missing config key": (
        '{folder: "s3://bucket/x"}',
        "{}",
        ["demo.yaml:9: stages.ingested.config.folder: missing; expected a path or address"],
    ),
    "text for a number": (
        "min_side: 64",
        "min_side: big",
        ["stages.curated.config.min_side: found 'big' (text), expected a whole number"],
    ),
    "fraction for a whole number": ("min_side: 64", "min_side: 64.5", ["found 64.5, expected a whole number"]),
    "float for a whole number": ("min_side: 64", "min_side: 64.0", ["found 64.0, expected a whole number"]),
    "truth for a number": ("rate: 1e-4", "rate: true", ["stages.curated.config.rate: found true, expected a number"]),
    "yes for a truth": ("min_side: 64", "upright: yes", ["upright: found 'yes' (text), expected true or false"]),
    "number for a path": ('"s3://bucket/x"', "3", ["stages.ingested.config.folder: found 3, expected text"]),
    "unknown enum value": (
        "min_side: 64",
        "colour: rad",
        ["found 'rad' (text), expected one of 'red', 'blue'; did you mean 'red'?"],
    ),
    "unknown literal": ("min_side: 64", "strategy: fsdp", ["expected one of 'ddp', 'fsdp2'; did you mean 'fsdp2'?"]),
    "list too long": (
        "[1, 2]",
        "[1, 2, 3]",
        ["stages.curated.config.anchors[0]: found a list of 3, expected 2 of them"],
    ),
    "list too short": ("[1, 2]", "[1]", ["stages.curated.config.anchors[0][1]: the list is too short"]),
    "wrong item": (
        "[1, 2]",
        "[1, x]",
        ["stages.curated.config.anchors[0][1]: found 'x' (text), expected a whole number"],
    ),
    "value for a mapping": ("min_side: 64", "optimizer: 3", ["config.optimizer: found 3, expected a mapping"]),
    "unknown nested key": (
        "min_side: 64",
        "optimizer: {lr: 1, bets: [1, 2]}",
        ["config.optimizer.bets: unknown key; did you mean 'betas'?"],
    ),
    "missing nested key": ("min_side: 64", "optimizer: {}", ["config.optimizer.lr: missing; expected a number"]),
    "no member of a union": (
        "min_side: 64",
        "limit: 1.5",
        ["config.limit: found 1.5, expected a whole number or text"],
    ),
    "relation between fields": (
        "min_side: 64",
        "min_side: 0",
        ["demo.yaml:6: stages.curated.config: min_side: found 0, expected at least 1"],
    ),
    "repeated key": (
        "min_side: 64",
        "rate: 1",
        ["demo.yaml:6: stages.curated.config.rate: found twice, on lines 6 and 6"],
    ),
    "not a number": ("rate: 1e-4", "rate: .nan", ["config.rate: found .nan, expected a finite number"]),
    "infinite number": ("rate: 1e-4", "rate: 1e999", ["config.rate: found 1e999, expected a finite number"]),
    "resources": ("workers: 2", "workers: 0", ["stages.curated.resources: workers: found 0, expected at least 1"]),
    "retry": (
        "attempts: 5",
        "attempts: many",
        ["stages.curated.retry.attempts: found 'many' (text), expected a whole number"],
    ),
    "unknown slot": (
        "records:",
        "record:",
        [
            "stages.curated.inputs.record: stage kind 'curate' has no such input slot; did you mean 'records'?",
            "stages.curated.inputs.records: missing; expected the name of a stage that makes 'records@1'",
        ],
    ),
    "unknown input stage": (
        "records: ingested",
        "records: ingest",
        ["demo.yaml:5: stages.curated.inputs.records: found no stage 'ingest'; did you mean 'ingested'?"],
    ),
    "two stages in a single slot": (
        "records: ingested",
        "records: [ingested, ingested]",
        ["inputs.records: found 2 stages, expected one"],
    ),
    "wrong artifact kind": (
        "{records: ingested}",
        "{records: ingested, also: [curated]}",
        [
            "line 5: stages.curated.inputs.also: needs 'records@1', but 'curated' makes 'dataset@1'",
            "found a cycle: curated -> curated",
        ],
    ),
    "number as an input": (
        "records: ingested",
        "records: 3",
        ["stages.curated.inputs.records: found 3, expected a stage name or a list of them"],
    ),
    "stage that is no mapping": (
        'ingested: {kind: ingest, config: {folder: "s3://bucket/x"}}',
        "ingested: x",
        ["stages.ingested: found 'x' (text), expected a mapping with the key 'kind'"],
    ),
    "bad recipe name": ("name: demo", "name: ../demo", ["demo.yaml:1: name: found '../demo' (text), expected a name"]),
    "bad stage name": ("ingested: {", "in/gested: {", ["stages.in/gested: expected a stage name of letters"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_path(mistake: str, tmp_path: Path) -> None:
    old, new, expected = MISTAKES[mistake]
    assert old in GOOD
    text = message(tmp_path, GOOD.replace(old, new, 1))
    for part in expected:
        assert part in text


def test_all_mistakes_of_a_file_come_in_one_message_in_the_order_of_lines(tmp_path: Path) -> None:
    broken = GOOD.replace("1e-4", "x").replace("cpus: 1", "cpu: 1").replace("folder", "foldr")
    assert message(tmp_path, broken).splitlines() == [
        "demo.yaml: 4 problems",
        "  line 6: stages.curated.config.rate: found 'x' (text), expected a number",
        "  line 7: stages.curated.resources.cpu: unknown key; did you mean 'cpus'?",
        "  line 9: stages.ingested.config.folder: missing; expected a path or address",
        "  line 9: stages.ingested.config.foldr: unknown key; did you mean 'folder'?",
    ]


def test_a_cycle_is_shown_in_the_direction_of_the_data(tmp_path: Path) -> None:
    stages = "".join(f"  {name}: {{kind: loop, inputs: {{x: {up}}}}}\n" for name, up in ["ab", "bc", "ca"])
    file = tmp_path / "loop.yaml"
    file.write_text(f"name: loop\nstages:\n{stages}")

    @dataclass(frozen=True, kw_only=True)
    class Empty:
        pass

    loop = StageKind(name="loop", version=1, config=Empty, run=no_run, output="x@1", inputs={"x": Slot(kind="x@1")})
    with pytest.raises(RecipeError, match="found a cycle: a -> c -> b -> a; a stage cannot need itself"):
        load_recipe(file, {"loop": loop})


@given(st.integers(0, 2**32))
def test_a_recipe_with_one_random_change_loads_or_fails_with_a_recipe_error(seed: int) -> None:
    rng = random.Random(seed)
    position = rng.randrange(len(GOOD))
    text = GOOD[:position] + rng.choice(list("\n :{}[]x1-.")) + GOOD[position + rng.randrange(3) :]
    try:
        document = parse_yaml(text, "broken.yaml")
        decode_recipe(document.data, KINDS)  # type: ignore[arg-type] # whatever the text says
    except RecipeError:
        pass
