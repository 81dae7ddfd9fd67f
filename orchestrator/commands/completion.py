"""`illume completion`: the script that switches on completion in a shell."""

import click
from click.shell_completion import get_completion_class

from orchestrator.commands.shared.completion import register_shells
from orchestrator.commands.shared.options import examples

PROGRAM, VARIABLE = "illume", "_ILLUME_COMPLETE"


@click.command(
    "completion",
    epilog=examples(
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/illume.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that completes commands, options, recipes, runs, stages and kinds in SHELL."""
    register_shells()
    found = get_completion_class(shell)
    assert found is not None, "the choices are click's shells"
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, PROGRAM, VARIABLE).source())
