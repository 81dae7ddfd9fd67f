from collections.abc import Iterator

import click
import pytest

from orchestrator.cli import GROUPS, cli
from orchestrator.commands.shared.numbers import ABOVE_ZERO, AT_LEAST_ZERO, FiniteNumber


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "1e999", "-1", "many"])
def test_only_finite_numbers_of_the_range_are_taken(text: str) -> None:
    with pytest.raises(click.BadParameter):
        AT_LEAST_ZERO.convert(text, None, None)
    assert AT_LEAST_ZERO.convert("0", None, None) == 0.0
    with pytest.raises(click.BadParameter):
        ABOVE_ZERO.convert("0", None, None)


def test_no_command_takes_a_number_that_may_be_nan() -> None:
    found = {(name, option.name): option.type for name, option in options() if option.type.name.startswith("float")}
    assert found == {}
    assert any(isinstance(option.type, FiniteNumber) for _, option in options()), "they are looked at"


def options() -> Iterator[tuple[str, click.Parameter]]:
    context = click.Context(cli)
    for name in (name for commands in GROUPS.values() for name in commands):
        command = cli.get_command(context, name)
        assert command is not None
        subcommands = command.commands.values() if isinstance(command, click.Group) else ()
        yield from ((name, option) for each in (command, *subcommands) for option in each.params)
