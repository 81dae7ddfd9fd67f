"""`illume kinds` and `illume schema`: of the kinds at hand, also those of a plugin; wrong names."""

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from orchestrator.errors import RecipeError
from orchestrator.reference.kind_pages import find_keys
from stages import STAGE_KINDS
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import RECIPE, Illume

illume = test_cli.illume


def test_the_kinds_at_hand_are_listed(illume: Illume) -> None:
    lines = [line.split() for line in illume("kinds").out.splitlines()]
    assert next(line[:3] for line in lines if line[0] == "shout") == ["shout", "words", "words@1"]
    assert [kind["name"] for kind in illume("kinds", "--json").data["kinds"]] == ["say", "shout", "faulty", "damaged"]


def test_one_kind_one_key_and_what_every_stage_takes(illume: Illume) -> None:
    assert "times whole number, required" in " ".join(illume("kinds", "shout").out.split())
    assert illume("kinds", "shout.fault").out.splitlines()[0] == "shout.fault"
    assert [key["path"] for key in illume("kinds", "shout.fault", "--json").data["keys"]] == ["fault"]
    assert "hang_after_s" in illume("kinds", "retry").out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shot", "error: found no stage kind 'shot'; did you mean 'shout'?"),
        ("shout.tims", "error: kind 'shout' has no key 'tims'; did you mean 'times'?"),
    ],
)
def test_an_unknown_name_is_one_line_and_exit_code_2(illume: Illume, name: str, message: str) -> None:
    answer = illume("kinds", name)
    assert (answer.code, answer.out, answer.err) == (2, "", f"{message}\n")


def test_the_schema_is_printed_or_written(illume: Illume, tmp_path: Path) -> None:
    import yaml

    schema = illume("schema").data
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(RECIPE))
    assert illume("schema", "-o", "recipe.schema.json").out == "schema: recipe.schema.json\n"
    assert (tmp_path / "recipe.schema.json").read_text() == illume("schema").out


def test_an_old_name_of_a_key_names_the_new_one() -> None:
    for old, said in {
        "train_mllm.loop.micros_per_step": "it was renamed to 'loop.micro_batches_per_step'",
        "train_mllm.config.loop.micros_per_step": "it was renamed to 'loop.micro_batches_per_step'",
        "tokenize_images.decode_threads": "it was moved to tokenize_images.execution.decode_threads",
    }.items():
        with pytest.raises(RecipeError, match=re.escape(said)):
            find_keys(old, STAGE_KINDS)
