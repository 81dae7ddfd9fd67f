"""`illume curate`: the built-in recipe `curate` over folders and files that are named once."""

import json
from pathlib import Path

import click

from orchestrator.commands.plan import plan_command
from orchestrator.commands.run import run_command
from orchestrator.commands.shared.options import Locations, examples, location_options
from orchestrator.errors import RecipeError


@click.command("curate", epilog=examples("curate photos", "curate photos --plan", "curate a.jsonl b.parquet"))
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", default="", help="Of the dataset, kept with every record; else that of the first path.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="stages.NAME.config.KEY=VALUE")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be read, and how; run nothing.")
@location_options
@click.pass_context
def curate_command(
    ctx: click.Context,
    data: tuple[Path, ...],
    name: str,
    overrides: tuple[str, ...],
    only_plan: bool,
    locations: Locations,
) -> None:
    """Ingest and curate DATA: folders of images with words beside them, files of records, or both.

    Images that records name are looked for beside their file and below the folder. Prints what is read how, and a
    sample of the records, before anything runs.
    """
    missing = next((path for path in data if not path.exists() and not set("*?[") & set(str(path))), None)
    if missing is not None:
        raise RecipeError(f"{missing}: no such file or folder; expected the data to curate")
    source = name or data[0].absolute().name or "data"
    given = (
        f"stages.ingested.config.paths={json.dumps([str(path) for path in data])}",
        "stages.ingested.config.images=[]",
        f"stages.ingested.config.read.source={json.dumps(source)}",
        *overrides,
    )
    places = {"store": locations.store, "database": locations.database, "tracking": locations.tracking}
    ctx.invoke(plan_command if only_plan else run_command, recipe="curate", overrides=given, **places)
