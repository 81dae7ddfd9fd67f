"""`illume new`: starts a project with a commented recipe for the user's own data and a stage of its own."""

import importlib.util
import json
import re
from pathlib import Path

import click

from orchestrator.artifact import JSON
from orchestrator.commands.shared.options import examples, stage_kinds
from orchestrator.errors import RecipeError
from orchestrator.plugins.table import kinds_of_targets, with_kinds
from orchestrator.recipe.loading import Kinds
from orchestrator.reference.recipe_schema import recipe_schema
from orchestrator.reference.recipe_text import stage_text

EXAMPLE_ANCHORS = ((64, 64),)  # (height, width) of the examples
ANCHORS = (  # those of ILLUME+, from 1:1 to 1:4: an image that none of them fits is kept and not trained on
    (512, 512), (384, 512), (512, 384), (384, 768), (768, 384), (384, 576), (576, 384), (320, 960), (960, 320),
    (256, 1024), (1024, 256),
)  # fmt: skip
NUM_EXAMPLES = 24
PLUGIN = "./stage.py:STAGE"
HEADER = """\
# yaml-language-server: $schema=recipe.schema.json
# A recipe for the files in {data}: ingest, curate, and the stage of stage.py. Start in this folder with
#   illume plan recipe.yaml --plugin {plugin}
#   illume run recipe.yaml --plugin {plugin}
# Keys that are commented out are at their defaults; `illume kinds` shows all stage kinds.
# What trains models goes on from `curated`: `illume recipes photos` prints an example.
name: {name}
stages:
"""


@click.command("new", epilog=examples("new my-project", "new my-project --data /data/photos # instead of examples"))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    type=click.Path(path_type=Path, resolve_path=True),
    help="Your images and texts: a folder, or a file of records. Default: a few images are drawn into DIR/data.",
)
def new_command(folder: Path, data: Path | None) -> None:
    """Start a project in DIR: a commented recipe for your own data, and a stage of your own that works.

    Read are folders of images with captions in .txt files of the same names, JSON lines, Parquet files and WebDataset
    tars, each found out by itself.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder}: found files there, expected a new or an empty folder")
    if data is not None and not data.exists():
        raise RecipeError(f"--data: found no file or folder {str(data)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.py").write_text(_template("stage.py.txt"), encoding="utf-8")
    kinds = with_kinds(stage_kinds(), kinds_of_targets([f"{folder / 'stage.py'}:STAGE"]))
    if data is None:
        from data_pipelines.shapes.captioned_images import write_captioned_images  # late: draws, so it needs numpy

        write_captioned_images(folder / "data", NUM_EXAMPLES)
    (folder / "recipe.yaml").write_text(project_recipe(folder, data, kinds), encoding="utf-8")
    (folder / "recipe.schema.json").write_text(json.dumps(recipe_schema(kinds), indent=1) + "\n", encoding="utf-8")
    (folder / ".gitignore").write_text(".illume/\n__pycache__/\n", encoding="utf-8")
    for line in (
        f"{folder}/recipe.yaml  the recipe, with every key of its stages",
        f"{folder}/stage.py     a stage of your own",
        f"{data or folder / 'data'}  the data"
        + ("" if data else f": {NUM_EXAMPLES} examples, put yours in their place"),
        "next:",
        f"  cd {folder}",
        f"  illume run recipe.yaml --plugin {PLUGIN}",
    ):
        click.echo(line)


def project_recipe(folder: Path, data: Path | None, kinds: Kinds) -> str:
    """The recipe's text; every key of its kinds is generated from their configuration classes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).strip("-._") or "project"
    where = str(data) if data else "data"
    read: dict[str, JSON] = {"source": name, "format": data_format(data)}
    images: dict[str, JSON] = {"images": [where]} if read["format"] == "auto" and data and data.is_dir() else {}
    ingested = stage_text("ingested", kinds["ingest"], {"read": read, "paths": [where], **images}, {})
    anchors: list[JSON] = [list(size) for size in (ANCHORS if data else EXAMPLE_ANCHORS)]
    curated = stage_text("curated", kinds["curate"], {"anchors": anchors}, {"records": "ingested"})
    header = HEADER.format(data=where, plugin=PLUGIN, name=json.dumps(name))
    own = stage_text("sizes", kinds["image_sizes"], {}, {"datasets": "curated"})
    return "\n".join([f"{header}{ingested}", curated, own])


def data_format(data: Path | None) -> str:
    """The format to read: that of a folder of images, with or without texts, if there are no files of records."""
    from data_pipelines.ingest.config import FOLDER_FORMATS
    from data_pipelines.ingest.files.source_files import ENDINGS

    with_captions, without = FOLDER_FORMATS
    if data is None:
        return with_captions
    names = [file.name.lower() for file in data.rglob("*") if file.is_file()] if data.is_dir() else [data.name]
    if not data.is_dir() or any(name.endswith(endings) for endings in ENDINGS.values() for name in names):
        return "auto"
    return with_captions if any(name.endswith(".txt") for name in names) else without


def _template(name: str) -> str:
    package = importlib.util.find_spec("stages")
    assert package is not None, "installed with this package"
    (folder,) = package.submodule_search_locations or [""]
    return Path(folder, "new_project", name).read_text(encoding="utf-8")
