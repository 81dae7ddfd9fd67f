"""Uses the models of a finished run: `illume generate`, `describe`, `ask` and `edit`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.errors import PluginError, RecipeError
from orchestrator.learning import OUTPUT
from orchestrator.planning.plan import tainted_stages

if TYPE_CHECKING:
    from PIL import Image

    from data_pipelines.inference.settings import InferenceSettings
    from models.mllm.config import SamplingConfig
    from orchestrator.planning.plan import Plan, PlannedStage
    from orchestrator.recipe.loading import Kinds
    from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

NEEDED_MODELS = ("tokenizer", "mllm")  # roles; a "decoder" is used where there is one


class FinishedRun:
    """The models of a run that belong together, and the sampling settings of its recipe."""

    def __init__(self, workspace: "Workspace", kinds: "Kinds", run_id: str) -> None:
        import torch

        from data_pipelines.inference.illume_plus import IllumePlus

        self._workspace = workspace
        self._plan = workspace.plan_of(run_id, kinds, allow_changed_kinds=True)
        self._tainted = tainted_stages(self._plan, read_takedowns(workspace.store))
        stage = models_stage(self._plan)
        self.config = settings_of(stage)
        folders = {role: self._folder(upstream) for role, upstream in models_of(stage).items()}
        self.model = IllumePlus.load(
            folders["tokenizer"],
            folders["mllm"],
            folders.get("decoder"),
            device="cuda" if torch.cuda.is_available() else "cpu",
        )

    def _folder(self, upstream: str) -> Path:
        planned = self._plan.stage(upstream)
        kind = planned.spec.kind.name
        if self._workspace.artifacts.find(ArtifactKey(kind, planned.fingerprint)) is None:
            raise RecipeError(
                f"stage {upstream!r} of this run has no artifact yet; finish it with `illume run {self._plan.recipe}`"
            )
        if upstream in self._tainted:
            takedowns = ", ".join(self._tainted[upstream])
            log.warning("%s was trained on data removed by takedown %s, or made from such a model", upstream, takedowns)
        return self._workspace.artifacts.open(ArtifactKey(kind, planned.fingerprint)).path


def models_stage(plan: "Plan") -> "PlannedStage":
    """The recipe's last stage that declares models in use (`StageKind.serving`), if possible one with settings."""
    found = [stage for stage in plan.stages if models_of(stage).keys() >= set(NEEDED_MODELS)]
    with_settings = [stage for stage in found if stage.spec.kind.serving and stage.spec.kind.serving.settings]
    if not found:
        raise RecipeError(
            f"recipe {plan.recipe!r} has no stage of the kind 'evaluate' or 'export', nor one of another kind that "
            "names the models to use; add one"
        )
    return (with_settings or found)[-1]


def models_of(stage: "PlannedStage") -> dict[str, str]:
    """The stages that make the models which a stage declares to be in use, by role; absent optional ones left out."""
    serving = stage.spec.kind.serving
    slots = serving.models.items() if serving else ()
    found = {role: [stage.id] if slot == OUTPUT else list(stage.spec.inputs.get(slot, ())) for role, slot in slots}
    return {role: ids[0] for role, ids in found.items() if ids}


def settings_of(stage: "PlannedStage") -> "InferenceSettings":
    """The settings in the configuration of the stage, or those of the published models.

    Raises: PluginError: the kind gives something else.
    """
    from data_pipelines.inference.settings import InferenceSettings, published_settings

    kind = stage.spec.kind
    if kind.serving is None or kind.serving.settings is None:
        return published_settings()
    settings = kind.serving.settings(stage.spec.config)
    if not isinstance(settings, InferenceSettings):
        raise PluginError(
            f"stage kind {kind.name!r}: serving.settings: found {type(settings).__name__}, expected InferenceSettings "
            "of data_pipelines.inference.settings"
        )
    return settings


def generate(
    workspace: "Workspace",
    kinds: "Kinds",
    *,
    run_id: str,
    prompt: str,
    height: int | None,
    width: int | None,
    count: int,
    seed: int,
    out: Path,
) -> list[Path]:
    """Draw `count` images and write them to `out`: a file, or a folder for several. Returns the files.

    `height` and `width` are those of the codes; with a diffusion decoder the images have twice that size.
    """
    run = FinishedRun(workspace, kinds, run_id)
    anchors = run.model.model_input.anchors
    size = (height or anchors[0][0], width or anchors[0][1])
    if size not in anchors:
        known = ", ".join(f"{h}x{w}" for h, w in anchors)
        raise RecipeError(f"cannot draw {size[0]}x{size[1]} (height x width); the models were trained for {known}")
    codes = run.model.generate([prompt] * count, size, _seeded(run.config.generation, seed))
    if run.model.decoder is not None:
        images = run.model.enlarge(
            codes, steps=run.config.diffusion_steps, guidance=run.config.diffusion_guidance, seed=seed
        )
    else:
        images = run.model.decode(codes)
    return _save(images, out)


def describe(workspace: "Workspace", kinds: "Kinds", *, run_id: str, image: Path, seed: int) -> str:
    run = FinishedRun(workspace, kinds, run_id)
    return run.model.describe([_open(image)], _seeded(run.config.understanding, seed))[0]


def ask(workspace: "Workspace", kinds: "Kinds", *, run_id: str, image: Path, question: str, seed: int) -> str:
    run = FinishedRun(workspace, kinds, run_id)
    return run.model.ask([((_open(image),), question)], _seeded(run.config.understanding, seed))[0]


def edit(
    workspace: "Workspace",
    kinds: "Kinds",
    *,
    run_id: str,
    image: Path,
    instruction: str,
    seed: int,
    out: Path,
) -> list[Path]:
    """Change an image as the instruction says, and write it to `out` in its original size. Returns the files."""
    run = FinishedRun(workspace, kinds, run_id)
    return _save([run.model.edit(_open(image), instruction, _seeded(run.config.editing, seed))], out)


def _seeded(sampling: "SamplingConfig", seed: int) -> "SamplingConfig":
    return replace(sampling, seed=seed)


def _open(path: Path) -> "Image.Image":
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RecipeError(f"{path}: not an image that can be opened ({error}); give a PNG, JPEG or WebP") from error


def _save(images: "list[Image.Image]", out: Path) -> list[Path]:
    if len(images) == 1 and out.suffix:
        files = [out]
    else:
        folder = out.with_suffix("")
        files = [folder / f"{number:03d}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return files
