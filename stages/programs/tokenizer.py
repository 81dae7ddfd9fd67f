"""Tokenizer training as the loop sees it: a generator pass and, from a stated step on, a discriminator pass."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from data_pipelines.training_data.image_batches import PictureBatches, names_of
from models.dualvitok import weights
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss
from models.dualvitok.model import DualViTok
from models.dualvitok.perceptual import Lpips, load_lpips
from orchestrator.errors import PrecheckError
from stages.programs.tokenizer_config import TokenizerTask, TrainTokenizerConfig
from stages.training.checkpoint_files import has_weights, load_result
from stages.training.program import Micro, Pass, PassOutput, Sum, micro_seed

GENERATOR, DISCRIMINATOR = "tokenizer", "discriminator"  # names in a checkpoint


class Reconstruction:
    """The newest reconstructions of each micro-batch, made by the generator pass for the discriminator's."""

    def __init__(self) -> None:
        self.by_images: dict[int, torch.Tensor] = {}


class GeneratorPass(nn.Module):
    def __init__(self, model: DualViTok, loss: TokenizerLoss, judge: PatchGan, made: Reconstruction) -> None:
        super().__init__()
        self.model = model
        self._loss, self._judge, self._made = (loss,), (judge,), made  # in tuples: not parameters of this pass

    def forward(self, images_BCYX: torch.Tensor, generator: torch.Generator, step: int) -> PassOutput:
        outputs = self.model(images_BCYX, generator)
        (loss,), (judge,) = self._loss, self._judge
        judge.requires_grad_(False)
        total, terms = loss.generator(images_BCYX, outputs, step, judge)
        judge.requires_grad_(True)
        if loss.adversarial_weight(step):
            self._made.by_images[id(images_BCYX)] = outputs.images_BCYX.detach()
        return _summed(total, terms, len(images_BCYX))


class DiscriminatorPass(nn.Module):
    def __init__(self, judge: PatchGan, loss: TokenizerLoss, made: Reconstruction) -> None:
        super().__init__()
        self.judge = judge
        self._loss, self._made = (loss,), made

    def forward(self, images_BCYX: torch.Tensor, generator: torch.Generator, step: int) -> PassOutput:
        found_BCYX = self._made.by_images.pop(id(images_BCYX))
        total, terms = self._loss[0].discriminator(images_BCYX, found_BCYX, step, self.judge)
        return _summed(total, terms, len(images_BCYX))


def _summed(mean: torch.Tensor, terms: dict[str, torch.Tensor], batch: int) -> PassOutput:
    metrics = {name: Sum(term * batch, batch) for name, term in terms.items()}
    return PassOutput(loss_sum=mean * batch, metrics=metrics)


def tokenizer_pictures(task: TokenizerTask) -> PictureBatches:
    """The pictures in the order of the training."""
    return PictureBatches(
        task.datasets,
        split="train",
        tasks=None,
        batch=task.config.batch,
        seed=task.config.loop.seed,
        parts=task.parts,
        mirrored_share=task.config.mirrored_share,
    )


class TokenizerProgram:
    def __init__(self, task: TokenizerTask, device: torch.device) -> None:
        config = task.config
        self._config, self._device = config, device
        self._pictures = tokenizer_pictures(task)
        model = build_tokenizer(task).to(device).train()
        judge = PatchGan(config.discriminator).to(device)
        if task.start is not None and (task.start / weights.DISCRIMINATOR_FILE).exists():
            judge = weights.load_discriminator(task.start, device)
        loss = TokenizerLoss(config.loss, _lpips(config)).to(device)
        made = Reconstruction()
        generator = Pass(
            name="generator",
            module=GeneratorPass(model, loss, judge, made),
            groups=[{"params": model.trainable_parameters(), "lr": config.learning_rate}],
        )
        discriminator = Pass(
            name="discriminator",
            module=DiscriminatorPass(judge, loss, made),
            groups=[{"params": list(judge.parameters()), "lr": config.learning_rate}],
            first_step=config.loss.adversarial_start_step - 1,
        )
        adversarial = config.loss.adversarial_weight > 0 and discriminator.first_step < config.loop.steps
        self.passes = (generator, discriminator) if adversarial else (generator,)
        self.weights: dict[str, nn.Module] = {GENERATOR: model}
        if adversarial:
            self.weights[DISCRIMINATOR] = judge

    def micro(self, step: int, index: int) -> Micro:
        batch = self._pictures.micro(step * self._config.loop.micros_per_step + index)
        images_BCYX = torch.from_numpy(batch.pixels_BCYX).to(self._device)
        seed = micro_seed(self._config.loop.seed, step, index)
        return Micro(data=images_BCYX, weight=len(batch.samples), seed=seed, samples=names_of(batch))


def build_tokenizer(task: TokenizerTask) -> DualViTok:
    """The model before training: new, or the one to go on from, with the pre-trained tower in it."""
    model = weights.load(task.start) if task.start is not None else DualViTok(task.config.model)
    if model.config != task.config.model:
        raise PrecheckError(
            f"train_tokenizer: config.model differs from the tokenizer to go on from ({task.start}); "
            "give the same sizes"
        )
    if task.vision is not None:
        weights.adopt_vision(model, weights.load_vision(task.vision))
    return model


def check_config(config: TrainTokenizerConfig) -> None:
    """Build the tokenizer without its weights. Raises: PrecheckError if its sizes do not fit together."""
    try:
        with torch.device("meta"):
            DualViTok(config.model)
            PatchGan(config.discriminator)
    except ValueError as error:
        raise PrecheckError(f"train_tokenizer: {error}") from error


def export_tokenizer(task: TokenizerTask, checkpoint: Path, output: Path) -> None:
    """Write the trained tokenizer, and the discriminator if it was trained."""
    model = build_tokenizer(task)
    load_result(checkpoint, GENERATOR, model)
    weights.save(model, output)
    if has_weights(checkpoint, DISCRIMINATOR):
        judge = PatchGan(task.config.discriminator)
        load_result(checkpoint, DISCRIMINATOR, judge)
        weights.save_discriminator(judge, output)


def _lpips(config: TrainTokenizerConfig) -> Lpips | None:
    if config.loss.perceptual != "lpips":
        return None
    paths = [Path(location) for location in config.lpips_weights]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise PrecheckError(
            f"train_tokenizer: config.lpips_weights: no file {', '.join(missing) or 'given'}; give the LPIPS weights"
        )
    found = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    if found != config.lpips_sha256:
        raise PrecheckError(
            f"train_tokenizer: the LPIPS weights have SHA-256 {', '.join(found)}, but config.lpips_sha256 says "
            f"{', '.join(config.lpips_sha256)}"
        )
    return load_lpips(paths)
