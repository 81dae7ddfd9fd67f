"""Every output has a schema, and what the commands print fits it; outputs of datasets are checked in end_to_end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from orchestrator.cli import COMMANDS, cli
from orchestrator.reference.outputs import OUTPUTS, output_schema
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume
OF_EVENTS = {"run", "resume"}  # print the output "events"
ONE_PER_LINE = {"events", "logs", "events ACTOR"}


def check_output(name: str, value: Any) -> None:
    """Raises: ValidationError: the value does not fit the schema of the output."""
    schema = output_schema(name)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(value)


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for below, inner in command.commands.items():
                yield f"{name} {below}", inner


def test_every_command_with_json_has_a_schema_and_every_schema_a_command() -> None:
    with_json = {name for name, command in commands() if any("--json" in each.opts for each in command.params)}
    assert with_json - OF_EVENTS <= set(OUTPUTS)
    assert all(any(name == known or name.startswith(f"{known} ") for known in with_json) for name in OUTPUTS)


OF_A_RUN = {
    "status": ("status",),
    "status RUN": ("status", "last"),
    "show": ("show",),
    "path": ("path", "last:loud"),
    "plan": ("plan", "words.yaml"),
    "logs": ("logs",),
    "events": ("events",),
    "events ACTOR": ("events", "--actor", "*"),
    "explain": ("explain",),
    "lineage": ("lineage", "last:loud"),
    "verify": ("verify",),
    "gc": ("gc", "--older-than-h", "0"),
    "du": ("du",),
    "doctor": ("doctor",),
    "kinds": ("kinds",),
    "kinds KIND": ("kinds", "shout"),
    "kinds KIND.KEY": ("kinds", "shout.times"),
    "recipes": ("recipes",),
    "index rebuild": ("index", "rebuild"),
    "pin": ("pin", "last:loud"),
    "takedown apply": ("takedown", "apply", "T0.takedown.json"),
    "takedown list": ("takedown", "list"),
    "diff": ("diff", "last", "last"),
}


def test_what_commands_print_fits_their_schemas(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("fail")
    illume("run", "words.yaml", "--set", f"stages.loud.config.fault={fault}")  # states of failure are outputs too
    check_output("status RUN", illume("status", "last", "--json").data)
    check_output("show", illume("show", "last", "--json").data)
    fault.unlink()
    for line in illume("resume", "--json").out.splitlines():
        check_output("events", json.loads(line))
    illume("takedown", "plan", "nobody", "--id", "T0")
    for name, command in OF_A_RUN.items():
        answer = illume(*command, "--json")
        values = [json.loads(line) for line in answer.out.splitlines()] if name in ONE_PER_LINE else [answer.data]
        assert values, name
        for value in values:
            check_output(name, value)
            assert value["format"] >= 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_schemas_are_printed_by_the_name_of_the_command(illume: Illume, name: str) -> None:
    assert illume("schema", *name.split()).data == output_schema(name)


def test_an_unknown_output_names_the_nearest(illume: Illume) -> None:
    answer = illume("schema", "statis")
    assert answer.code == 2
    assert "found no output 'statis'; did you mean 'status'" in answer.err
    assert "status RUN" in illume("schema", "--list").out
