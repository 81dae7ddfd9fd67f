"""The models of a finished run in use: `illume generate`, `describe`, `ask` and `edit`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.errors import RecipeError
from orchestrator.planning.plan import tainted_stages
from stages import STAGE_KINDS
from stages.evaluate import EvaluateConfig, SampleCounts

if TYPE_CHECKING:
    from PIL import Image

    from models.mllm.config import SamplingConfig
    from orchestrator.planning.plan import Plan, PlannedStage
    from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

NAMING_KINDS = ("evaluate", "export")


class FinishedRun:
    """The models of a run that belong together, and the sampling settings that its recipe gives."""

    def __init__(self, workspace: "Workspace", recipe_or_run: str | None) -> None:
        import torch

        from data_pipelines.inference.illume_plus import IllumePlus

        self._workspace = workspace
        self._plan = workspace.plan_of(_run_id(workspace, recipe_or_run), STAGE_KINDS, only_to_look=True)
        self._tainted = tainted_stages(self._plan, read_takedowns(workspace.store))
        together = stage_that_names_models(self._plan)
        config = together.spec.config
        self.config = config if isinstance(config, EvaluateConfig) else published_settings()
        self.model = IllumePlus.load(
            self._folder(together, "tokenizer"),
            self._folder(together, "mllm"),
            self._folder(together, "decoder") if together.spec.inputs.get("decoder") else None,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )

    def _folder(self, stage: "PlannedStage", slot: str) -> Path:
        (upstream,) = stage.spec.inputs[slot]
        planned = self._plan.stage(upstream)
        kind = planned.spec.kind.name
        if self._workspace.artifacts.find(kind, planned.fingerprint) is None:
            raise RecipeError(
                f"stage {upstream!r} of this run has no artifact yet; finish it with `illume run {self._plan.recipe}`"
            )
        if upstream in self._tainted:
            takedowns = ", ".join(self._tainted[upstream])
            log.warning("%s was trained on what takedown %s removed, or comes from such a model", upstream, takedowns)
        return self._workspace.artifacts.open(kind, planned.fingerprint).path


def stage_that_names_models(plan: "Plan") -> "PlannedStage":
    """The recipe's last evaluation, or its last export: their inputs are the models that belong together."""
    for kind in NAMING_KINDS:
        found = [stage for stage in plan.stages if stage.spec.kind.name == kind]
        if found:
            return found[-1]
    raise RecipeError(
        f"recipe {plan.recipe!r} has no stage of the kind {' or '.join(map(repr, NAMING_KINDS))}, which says which "
        "models belong together; add one"
    )


def published_settings() -> EvaluateConfig:
    """How the published models are asked, for recipes without an evaluation that says it."""
    from models.mllm.config import SamplingConfig

    return EvaluateConfig(
        samples=SampleCounts(reconstruction=0, generation=0, understanding=0, editing=0, enlargement=0),
        understanding=SamplingConfig.published_understanding(),
        generation=SamplingConfig.published_generation(),
        editing=SamplingConfig.published_editing(),
        seed=0,
        diffusion_steps=50,
        diffusion_guidance=2.0,
    )


def generate(
    workspace: "Workspace",
    *,
    recipe_or_run: str | None,
    prompt: str,
    height: int | None,
    width: int | None,
    count: int,
    seed: int,
    out: Path,
) -> list[Path]:
    """Draw `count` pictures and write them to `out`: a file, or a folder for several. Gives the files.

    With a diffusion decoder the pictures have twice the size of the codes; height and width are those of the codes.
    """
    run = FinishedRun(workspace, recipe_or_run)
    anchors = run.model.reading.anchors
    size = (height or anchors[0][0], width or anchors[0][1])
    if size not in anchors:
        known = ", ".join(f"{h}x{w}" for h, w in anchors)
        raise RecipeError(f"cannot draw {size[0]}x{size[1]} (height x width); the models were trained for {known}")
    codes = run.model.generate([prompt] * count, size, _seeded(run.config.generation, seed))
    if run.model.decoder is not None:
        pictures = run.model.enlarge(
            codes, steps=run.config.diffusion_steps, guidance=run.config.diffusion_guidance, seed=seed
        )
    else:
        pictures = run.model.decode(codes)
    return _save(pictures, out)


def describe(workspace: "Workspace", *, recipe_or_run: str | None, image: Path, seed: int) -> str:
    run = FinishedRun(workspace, recipe_or_run)
    return run.model.describe([_open(image)], _seeded(run.config.understanding, seed))[0]


def ask(workspace: "Workspace", *, recipe_or_run: str | None, image: Path, question: str, seed: int) -> str:
    run = FinishedRun(workspace, recipe_or_run)
    return run.model.ask([((_open(image),), question)], _seeded(run.config.understanding, seed))[0]


def edit(
    workspace: "Workspace", *, recipe_or_run: str | None, image: Path, instruction: str, seed: int, out: Path
) -> list[Path]:
    """Change a picture as told and write it to `out` in its own size."""
    run = FinishedRun(workspace, recipe_or_run)
    return _save([run.model.edit(_open(image), instruction, _seeded(run.config.editing, seed))], out)


def _run_id(workspace: "Workspace", recipe_or_run: str | None) -> str:
    """The newest run, or the one that is named, or the newest of the recipe that is named."""
    from orchestrator.history.run_status import list_runs

    found = list_runs(workspace.database)
    if not found:
        raise RecipeError("there is no run yet; start one with `illume run quickstart`")
    for run in found:
        if recipe_or_run is None or recipe_or_run in (run.run_id, run.recipe):
            return run.run_id
    raise RecipeError(f"there is no run and no recipe's run named {recipe_or_run!r}; `illume status` lists them")


def _seeded(sampling: "SamplingConfig", seed: int) -> "SamplingConfig":
    return replace(sampling, seed=seed)


def _open(path: Path) -> "Image.Image":
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RecipeError(f"{path}: not a picture that can be opened ({error}); give a PNG, JPEG or WebP") from error


def _save(pictures: "list[Image.Image]", out: Path) -> list[Path]:
    if len(pictures) == 1 and out.suffix:
        files = [out]
    else:
        folder = out.with_suffix("")
        files = [folder / f"{number:03d}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    return files
