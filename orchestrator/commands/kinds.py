"""`illume kinds` and `illume schema`: the reference of stage kinds, as text, as JSON, and as a schema for editors."""

import json
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.completion import matching
from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.live_view import console
from orchestrator.commands.shared.narrow import print_table
from orchestrator.commands.shared.options import examples, json_option, plugin_option, stage_kinds
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import OrchestratorError, RecipeError
from orchestrator.reference.config_keys import config_keys, walk
from orchestrator.reference.kind_pages import (
    SECTIONS,
    find_keys,
    key_lines,
    key_to_json,
    kind_text,
    kind_to_json,
    listed,
)
from orchestrator.reference.outputs import OUTPUTS, output_schema
from orchestrator.reference.recipe_schema import recipe_schema


def complete_kind(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Kinds; after a dot the keys of the one before it."""
    try:
        with ctx.scope(cleanup=False):
            kinds = stage_kinds()
    except OrchestratorError:
        return []
    name, dot, _ = incomplete.partition(".")
    if dot and name in kinds:
        return matching((f"{name}.{key.path}" for key in walk(config_keys(kinds[name].config))), incomplete)
    return matching([*kinds, *SECTIONS], incomplete)


@click.command(
    "kinds",
    epilog=examples(
        "kinds # all of them",
        "kinds curate # inputs, output, config, metrics",
        "kinds train_mllm.loop # one key, and the keys below it",
        "kinds retry # what every stage takes; also resources, gates",
        "kinds --json",
    ),
)
@click.argument("name", metavar="[KIND[.KEY]]", required=False, shell_complete=complete_kind)
@plugin_option
@json_option
def kinds_command(name: str | None, as_json: bool) -> None:
    """Show the stage kinds, one of them, or one key: inputs, output, config with types and defaults, metrics."""
    kinds = stage_kinds()
    if name is None:
        if as_json:
            echo_json("kinds", {"kinds": [kind_to_json(kind) for kind in kinds.values()]})
        else:
            _print_list()
        return
    kind_name, keys = find_keys(name, kinds)
    is_whole_kind = name == kind_name and kind_name in kinds
    if as_json:
        if is_whole_kind:
            echo_json("kinds KIND", kind_to_json(kinds[kind_name]))
        else:
            echo_json("kinds KIND.KEY", {"keys": [key_to_json(key) for key in keys]})
    elif is_whole_kind:
        click.echo(kind_text(kinds[kind_name], kinds))
    else:
        click.echo("\n".join([name, *key_lines(keys)]))


def complete_output(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The commands whose JSON is described."""
    return matching(OUTPUTS, incomplete)


@click.command(
    "schema",
    epilog=examples(
        "schema -o recipe.schema.json",
        "schema > recipe.schema.json",
        "schema status # of `illume status --json`",
        "schema --list # all outputs",
    ),
)
@click.argument("output", nargs=-1, shell_complete=complete_output)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: print it.")
@click.option("--list", "is_list", is_flag=True, help="List the outputs that have a schema.")
@plugin_option
def schema_command(output: tuple[str, ...], out: Path | None, is_list: bool) -> None:
    """Write the JSON Schema of recipes, by which editors complete and check them; or of what a command prints.

    The first line of a recipe names it: # yaml-language-server: $schema=recipe.schema.json

    OUTPUT is the command whose --json is described, e.g. status, "status RUN", takedown list.
    """
    if is_list:
        width = max(map(len, OUTPUTS))
        click.echo("\n".join(f"{name:{width}}  {text}" for name, (text, _) in OUTPUTS.items()))
        return
    name = " ".join(output)
    if name and name not in OUTPUTS:
        raise RecipeError(f"found no output {name!r}; {expectation(name, OUTPUTS.keys())}")
    text = json.dumps(output_schema(name) if name else recipe_schema(stage_kinds()), indent=1)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"schema: {out}")


def _print_list() -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("kind", "inputs", "output", "what it does"):
        table.add_column(title, overflow="fold", no_wrap=title == "kind")
    for row in listed(stage_kinds()):
        table.add_row(*map(Text, row))
    print_table(table, console())
    click.echo(f"more: `illume kinds KIND`; every stage also takes {', '.join(SECTIONS)}: `illume kinds retry`")
