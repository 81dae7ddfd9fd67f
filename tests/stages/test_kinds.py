"""The table of stage kinds: identities of their configs, plans of the built-in recipes, and early refusals."""

import dataclasses
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.identity import canonical_json, semantic_config
from orchestrator.planning.plan import Plan, check_needs, make_plan, run_prechecks
from orchestrator.planning.stage_identity import PlanView
from orchestrator.recipe.loading import load_recipe
from orchestrator.stage import Location, Recipe
from stages import STAGE_KINDS
from tests.end_to_end.desk import KINDS, TINY
from tests.orchestrator.grown_config import grown

RECIPES = sorted((Path(__file__).parents[2] / "stages" / "recipes").glob("*.yaml"))
SECOND_DATASET = """
  more:
    kind: curate
    inputs: {records: ingested}
    config: {anchors: [[64, 64]]}

  more_tokens:
    kind: tokenize_images
    inputs: {datasets: [more], tokenizer: tokenizer}
    config: {}
"""


def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(next(file for file in RECIPES if file.stem == name), STAGE_KINDS, overrides)


def planned(name: str, *overrides: str) -> Plan:
    return make_plan(recipe(name, *overrides), PlanView(find=lambda _key: None))


def locations(value: Any) -> Iterable[str]:
    """Every location in a configuration, at any depth."""
    if isinstance(value, Location):
        yield str(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from locations(item)
    elif dataclasses.is_dataclass(value):
        for item in vars(value).values():
            yield from locations(item)


@pytest.mark.parametrize("file", [*RECIPES, TINY], ids=lambda file: file.stem)
def test_a_new_setting_with_a_default_makes_no_stage_of_any_recipe_again(file: Path) -> None:
    before = load_recipe(file, STAGE_KINDS)
    after = dataclasses.replace(
        before, stages=tuple(dataclasses.replace(spec, config=grown(spec.config)) for spec in before.stages)
    )
    fingerprints = [
        [stage.fingerprint for stage in make_plan(found, PlanView(find=lambda _key: None)).stages]
        for found in (before, after)
    ]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    "override",
    [
        "stages.vision.execution.keep_checkpoints=3",
        "stages.tokens.execution.decode_threads=7",
        "stages.mllm_2.execution.checkpoint_activations=true",
        "stages.mllm_2.execution.max_dropped_share=0.5",
        "stages.mllm_2.execution.too_long=error",
    ],
)
def test_what_cannot_change_a_result_makes_nothing_again(override: str) -> None:
    before, after = planned("quickstart"), planned("quickstart", override)
    assert [stage.fingerprint for stage in before.stages] == [stage.fingerprint for stage in after.stages]
    assert [stage.spec.execution for stage in before.stages] != [stage.spec.execution for stage in after.stages]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.vision.config.loop.keep_checkpoints=3",
            "moved to stages.vision.execution.keep_checkpoints, as it cannot change the result",
        ),
        ("stages.tokens.config.decode_threads=3", "moved to stages.tokens.execution.decode_threads"),
        ("stages.mllm_1.config.checkpoint_activations=true", "moved to stages.mllm_1.execution.checkpoint_activations"),
        ("stages.mllm_1.config.data.too_long=error", "moved to stages.mllm_1.execution.too_long"),
        ("stages.vision.config.loop.micros_per_step=2", "renamed to 'micro_batches_per_step'"),
        ("stages.vision.config.loop.most_skips=2", "renamed to 'max_skips'"),
        ("stages.curated.config.mirrored_pictures=true", "renamed to 'mirrored_images'"),
        ("stages.curated.config.thumbnail_side=99", "unknown key; removed; `illume audit` makes its small images when"),
        ("stages.ingested.config.read.format=pictures", "format: 'pictures' is called 'images_only' now"),
        ("stages.ingested.config.read.format=images", "format: 'images' is called 'image_caption_pairs' now"),
        ("stages.curated.gates.evaluation_pictures.at_least=1", "the metric is called 'evaluation_images' now"),
        (
            "stages.curated.gates.reason/similar_picture_share.at_most=1",
            "the metric is called 'reason/similar_image_share' now",
        ),
        ("stages.ingested.gates.pictures.at_least=1", "the metric is called 'images' now"),
        ("stages.mllm_1.gates.left_out/too_long.at_most=1", "the metric is called 'dropped/too_long' now"),
        ("stages.vision.execution.keep_checkpoints=0", "keep_checkpoints: 0 is less than 1"),
        (
            "stages.vision.execution.keep=0",
            "unknown key; expected one of: cpu_offload, keep_checkpoints, local_checkpoints, peer_checkpoints, "
            "shard_workers, strategy, ",
        ),
        ("stages.ingested.execution.keep_checkpoints=3", "unknown key; none is expected here"),
    ],
)
def test_a_key_of_another_name_or_section_is_refused_with_the_one_of_today(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        planned("quickstart", override)
    assert message in str(caught.value)


def test_a_missing_key_that_is_given_by_its_old_name_is_one_problem(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = next(file for file in RECIPES if file.stem == "quickstart").read_text()
    file.write_text(text.replace("micro_batches_per_step", "micros_per_step", 1))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, STAGE_KINDS)
    assert str(caught.value).endswith("micros_per_step: unknown key; renamed to 'micro_batches_per_step'")
    assert "problems" not in str(caught.value)


def test_execution_settings_have_defaults_and_none_is_a_setting_of_the_config() -> None:
    for kind in STAGE_KINDS.values():
        kind.execution()
        names = {field.name for field in dataclasses.fields(kind.execution)}
        assert names.isdisjoint(field.name for field in dataclasses.fields(kind.config))


def test_kinds_are_listed_by_their_own_names() -> None:
    assert all(name == kind.name for name, kind in STAGE_KINDS.items())


@pytest.mark.parametrize("kind", STAGE_KINDS.values(), ids=STAGE_KINDS)
def test_every_kind_declares_its_metrics_in_a_line_each(kind: Any) -> None:
    assert kind.metrics
    assert all(meaning and "\n" not in meaning and len(meaning) < 100 for meaning in kind.metrics.values())
    undeclared = dataclasses.replace(kind, metric_names=frozenset())
    assert [name for name in kind.metric_names if not undeclared.gives_metric(name)] == []


def test_every_input_kind_is_the_output_of_some_kind() -> None:
    outputs = {kind.output for kind in STAGE_KINDS.values()}
    assert {slot.kind for kind in STAGE_KINDS.values() for slot in kind.inputs.values()} <= outputs


@pytest.mark.parametrize("kind", STAGE_KINDS.values(), ids=STAGE_KINDS)
def test_configs_are_frozen_and_keyword_only(kind: Any) -> None:
    assert kind.config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind.config))


@pytest.mark.parametrize("file", [*RECIPES, TINY], ids=lambda file: file.stem)
def test_every_stage_of_every_recipe_is_planned_to_run(file: Path) -> None:
    plan = make_plan(load_recipe(file, STAGE_KINDS), PlanView(find=lambda _key: None))
    assert [stage.action for stage in plan.stages] == ["run"] * len(plan.stages)
    assert len({stage.fingerprint for stage in plan.stages}) == len(plan.stages)


def test_the_tiny_recipe_uses_every_kind() -> None:
    used = {spec.kind.name for spec in load_recipe(TINY, STAGE_KINDS).stages}
    assert used == KINDS


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_locations_are_not_part_of_an_identity(file: Path) -> None:
    for spec in load_recipe(file, STAGE_KINDS).stages:
        hints = typing.get_type_hints(spec.kind.config)
        fields = [name for name, hint in hints.items() if hint is Location]
        if spec.kind.name == "extend_vocabulary" and not spec.config.text_tokenizer:
            continue  # it trains a tokenizer, so none can be adopted
        elsewhere = dataclasses.replace(spec.config, **{name: Location("/elsewhere") for name in fields})
        identity = semantic_config(elsewhere)
        assert not set(fields) & set(identity)
        assert not [location for location in locations(elsewhere) if location and location in canonical_json(identity)]
        assert identity == semantic_config(spec.config)


@pytest.mark.parametrize("name", ["quickstart", "emoji", "photos", "illume_plus_3b", "illume_plus_7b"])
def test_the_configs_of_the_recipes_match(name: str) -> None:
    run_prechecks(planned(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "stages.mllm_1.config.learning_rates.vision=1.0e-5",
            r"train_mllm \(stage1\): learning_rates: found adapter, image_tokens, vision, expected exactly adapter, "
            "image_tokens",
        ),
        (
            "stages.mllm_3.config.learning_rates.vision=0",
            r"train_mllm \(stage3\): learning_rates: found adapter, language, expected exactly adapter, language, v",
        ),
        (
            "stages.mllm_2.config.padded_rows=2048",
            r"train_mllm \(stage2\): config.padded_rows: found beside the input start, .*; remove padded_rows from",
        ),
        (
            "stages.mllm_2.config.image_rows=codebook",
            r"train_mllm \(stage2\): config.image_rows: found beside the input start, .*; remove image_rows from",
        ),
        ("stages.mllm_2.inputs.start=[]", "train_mllm: config.text: missing; expected the sizes of the text model, or"),
        (
            "stages.decoder.config.model.pixel_channels=16",
            r"train_decoder: .* are \(8, 16, 8\), but the tokenizer has \(8, 8, 8\)",
        ),
        (
            "stages.mllm_2.inputs.tokens=[tokens,more_tokens]",
            "train_mllm: 1 datasets but 2 token artifacts; give one for each dataset, in the same order, or one that",
        ),
        (
            "stages.decoder.inputs.tokens=[tokens,more_tokens]",
            "train_decoder: 1 datasets but 2 token artifacts; give one for each dataset, in the same order",
        ),
    ],
)
def test_a_mismatch_is_refused_before_anything_runs(tmp_path: Path, change: str, message: str) -> None:
    plan = changed_plan(tmp_path, change)
    with pytest.raises(PrecheckError, match=message):
        run_prechecks(plan)


def test_one_token_artifact_may_cover_several_datasets(tmp_path: Path) -> None:
    run_prechecks(changed_plan(tmp_path, "stages.mllm_2.inputs.datasets=[curated,more]"))


def changed_plan(folder: Path, change: str) -> Plan:
    """The quickstart with a second dataset and its tokens."""
    file = folder / "recipe.yaml"
    file.write_text(next(file for file in RECIPES if file.stem == "quickstart").read_text() + SECOND_DATASET)
    return make_plan(load_recipe(file, STAGE_KINDS, [change]), PlanView(find=lambda _key: None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.mllm_1.config.data.rows_per_step=3", "equal micro-batches"),
        ("stages.mllm_1.config.phase=stage4", "stage4"),
        ("stages.vocabulary.config.text_tokenizer=here.json", "give either text_vocabulary"),
        ("stages.tokenizer.config.loss.perceptual=lpips", "lpips_sha256: empty"),
        ("stages.decoder.config.batch=0", "batch: 0 is less than 1"),
        ("stages.decoder.config.loop.steps=0", "steps: 0 is less than 1"),
    ],
)
def test_an_impossible_value_is_refused_with_its_path(change: str, message: str) -> None:
    smaller_step = "stages.mllm_1.config.loop.micro_batches_per_step=2"
    with pytest.raises(RecipeError, match=message) as raised:
        recipe("quickstart", change, smaller_step)
    assert change.split("=")[0].rsplit(".", 1)[0] in str(raised.value)


def test_the_published_recipe_requests_the_files_that_it_starts_from() -> None:
    with pytest.raises(PrecheckError) as raised:
        check_needs(planned("illume_plus_3b"))
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("the run cannot start")
    assert any(line.startswith("stages.stage_1.config.base_model: ") for line in lines)
    assert all("give" in line for line in lines[1:])


def test_existing_files_are_not_requested(tmp_path: Path) -> None:
    first = str(check_error("illume_plus_3b"))
    given = str(check_error("illume_plus_3b", f"stages.stage_1.config.base_model={tmp_path}"))
    assert "stages.stage_1.config.base_model" in first
    assert "stages.stage_1.config.base_model" not in given


def check_error(name: str, *overrides: str) -> PrecheckError:
    with pytest.raises(PrecheckError) as raised:
        check_needs(planned(name, *overrides))
    return raised.value


def test_a_recipe_is_plain_data(tmp_path: Path) -> None:
    """The payload of every stage of every recipe survives JSON."""
    for file in RECIPES:
        for stage in make_plan(load_recipe(file, STAGE_KINDS), PlanView(find=lambda _key: None)).stages:
            assert json.loads(canonical_json(stage.payload)) == stage.payload


@pytest.mark.parametrize("alias", ["latest", "Latest", "v12", "", "my model", "a/b"])
def test_an_alias_that_no_registry_accepts_is_refused_before_anything_runs(alias: str) -> None:
    with pytest.raises(RecipeError, match=r"stages\.exported\.config"):
        recipe("quickstart", f"stages.exported.config.alias={json.dumps(alias)}")


def test_the_plan_of_the_published_recipe_says_how_much_each_training_is() -> None:
    """Its batches are samples, as in table 1 of the paper."""
    stages = {stage.id: stage for stage in recipe("illume_plus_3b").stages}
    kinds = {name: stage.kind.amount for name, stage in stages.items() if stage.kind.amount is not None}
    found = {name: amount(stages[name].config) for name, amount in kinds.items()}
    assert found["tokenizer_256"] == "270,000 steps of 256 images: 69,120,000 images"
    assert found["stage_2"] == "98,000 steps of 1,024 samples: 100,352,000 samples, in rows of 4,096 tokens"
    assert found["decoder"] == "100,000 steps of 128 images: 12,800,000 images"
    assert len(found) == 9
