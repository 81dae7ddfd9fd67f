"""`illume generate`, `describe`, `ask` and `edit`: inference with the models that a run made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from orchestrator.commands.shared.json_output import echo_json
from orchestrator.commands.shared.options import (
    Locations,
    examples,
    json_option,
    location_options,
    open_workspace,
    plugin_option,
    run_option,
    stage_kinds,
)
from orchestrator.commands.shared.targets import find_run

IMAGE_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(path_type=Path)

seed_option = click.option("--seed", default=0, show_default=True, help="The same seed gives the same answer.")


@click.command(
    "generate",
    epilog=examples(
        "generate 'a red circle' -o circle.png", "generate 'a red circle' -n 8 -o circles --run quickstart"
    ),
)
@click.argument("prompt")
@run_option
@click.option("--height", type=int, help="Pixels; default: the size the models were trained on.")
@click.option("--width", type=int, help="Pixels.")
@click.option("-n", "--count", default=1, show_default=True, help="Images to generate.")
@click.option("-o", "--out", type=OUTPUT, default=Path("generated.png"), show_default=True, help="File, or folder.")
@seed_option
@location_options
@plugin_option
@json_option
def generate_command(
    prompt: str,
    run: str | None,
    height: int | None,
    width: int | None,
    count: int,
    out: Path,
    seed: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """Generate images for PROMPT."""
    from stages.finished_run import generate

    with open_workspace(locations) as workspace:
        run_id = find_run(workspace.database, run).run_id
        files = generate(
            workspace,
            stage_kinds(),
            run_id=run_id,
            prompt=prompt,
            height=height,
            width=width,
            count=count,
            seed=seed,
            out=out,
        )
    _echo_files("generate", files, {"run_id": run_id, "prompt": prompt, "seed": seed}, as_json=as_json)


@click.command("describe", epilog=examples("describe picture.png", "describe picture.png --run quickstart"))
@click.argument("image", type=IMAGE_FILE)
@run_option
@seed_option
@location_options
@plugin_option
@json_option
def describe_command(image: Path, run: str | None, seed: int, locations: Locations, as_json: bool) -> None:
    """Describe the image IMAGE."""
    from stages.finished_run import describe

    with open_workspace(locations) as workspace:
        run_id = find_run(workspace.database, run).run_id
        text = describe(workspace, stage_kinds(), run_id=run_id, image=image, seed=seed)
    _echo_text("describe", text, {"run_id": run_id, "image": str(image), "seed": seed}, as_json=as_json)


@click.command("ask", epilog=examples("ask picture.png 'How many shapes are there?'"))
@click.argument("image", type=IMAGE_FILE)
@click.argument("question")
@run_option
@seed_option
@location_options
@plugin_option
@json_option
def ask_command(
    image: Path,
    question: str,
    run: str | None,
    seed: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """Answer QUESTION about the image IMAGE."""
    from stages.finished_run import ask

    with open_workspace(locations) as workspace:
        run_id = find_run(workspace.database, run).run_id
        text = ask(workspace, stage_kinds(), run_id=run_id, image=image, question=question, seed=seed)
    asked: dict[str, str | int] = {"run_id": run_id, "image": str(image), "question": question, "seed": seed}
    _echo_text("ask", text, asked, as_json=as_json)


@click.command("edit", epilog=examples("edit picture.png 'change the colour of the circle to blue' -o blue.png"))
@click.argument("image", type=IMAGE_FILE)
@click.argument("instruction")
@run_option
@click.option("-o", "--out", type=OUTPUT, default=Path("edited.png"), show_default=True, help="File to write.")
@seed_option
@location_options
@plugin_option
@json_option
def edit_command(
    image: Path,
    instruction: str,
    run: str | None,
    out: Path,
    seed: int,
    locations: Locations,
    as_json: bool,
) -> None:
    """Edit the image IMAGE according to INSTRUCTION."""
    from stages.finished_run import edit

    with open_workspace(locations) as workspace:
        run_id = find_run(workspace.database, run).run_id
        files = edit(workspace, stage_kinds(), run_id=run_id, image=image, instruction=instruction, seed=seed, out=out)
    asked: dict[str, str | int] = {"run_id": run_id, "image": str(image), "instruction": instruction, "seed": seed}
    _echo_files("edit", files, asked, as_json=as_json)


def _echo_files(output: str, files: Sequence[Path], asked: Mapping[str, str | int], *, as_json: bool) -> None:
    if as_json:
        echo_json(output, {**asked, "files": [str(file) for file in files]})
        return
    for file in files:
        click.echo(str(file))


def _echo_text(output: str, text: str, asked: Mapping[str, str | int], *, as_json: bool) -> None:
    if as_json:
        echo_json(output, {**asked, "text": text})
    else:
        click.echo(text)
