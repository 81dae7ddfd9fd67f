"""The training program of the tokenizer: a generator pass and, from a configured step on, a discriminator pass."""

import hashlib
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from data_pipelines.training_data.image_batches import ImageBatch, ImageBatches, sample_names
from models.dualvitok import weights
from models.dualvitok.discriminator import PatchGan
from models.dualvitok.losses import TokenizerLoss
from models.dualvitok.model import DualViTok
from models.dualvitok.perceptual import Lpips, load_lpips
from models.dualvitok.pixel import start_as_plain_norms
from models.recompute import recompute
from models.strict_weights import check_strictly
from orchestrator.errors import PrecheckError
from stages.node_data import READ_AHEAD_STEPS
from stages.programs.held_out_rows import HeldOutImages
from stages.programs.image_costs import step_flops, tokenizer_facts
from stages.programs.image_data import indexed_batches
from stages.programs.index_config import validation_split
from stages.programs.tokenizer_config import TOKENIZER_IMAGES, TokenizerTask, TrainTokenizerConfig
from stages.training.checkpoints.reader import has_weights, load_trained_weights, open_weights, shapes_of
from stages.training.program import InitialWeights, MicroBatch, Pass, PassOutput, Sum, micro_batch_seed

GENERATOR, DISCRIMINATOR = "tokenizer", "discriminator"  # names in a checkpoint


class Reconstructions:
    """The reconstructions of one step, passed on from the generator pass to the discriminator pass.

    They stay until the next step, as a micro-batch may be passed more than once.
    """

    def __init__(self) -> None:
        self._step = -1
        self._by_images: dict[int, torch.Tensor] = {}  # id() of the input tensor -> images_BCYX

    def put(self, step: int, images_BCYX: torch.Tensor, reconstructed_BCYX: torch.Tensor) -> None:
        if step != self._step:
            self._step = step
            self._by_images.clear()
        self._by_images[id(images_BCYX)] = reconstructed_BCYX

    def get(self, images_BCYX: torch.Tensor) -> torch.Tensor:
        return self._by_images[id(images_BCYX)]


class GeneratorPass(nn.Module):
    def __init__(
        self, model: DualViTok, loss: TokenizerLoss, discriminator: PatchGan, reconstructions: Reconstructions
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._discriminator = (loss,), (discriminator,)  # tuples keep them from being its parameters
        self._reconstructions = reconstructions

    def forward(self, images_BCYX: torch.Tensor, generator: torch.Generator, step: int) -> PassOutput:
        outputs = self.model(images_BCYX, generator)
        (loss,), (discriminator,) = self._loss, self._discriminator
        discriminator.requires_grad_(False)
        total, terms = loss.generator(images_BCYX, outputs, step, discriminator)
        discriminator.requires_grad_(True)
        if loss.adversarial_weight(step):
            self._reconstructions.put(step, images_BCYX, outputs.images_BCYX.detach())
        return _pass_output(total, terms, len(images_BCYX))


class DiscriminatorPass(nn.Module):
    def __init__(self, discriminator: PatchGan, loss: TokenizerLoss, reconstructions: Reconstructions) -> None:
        super().__init__()
        self.discriminator = discriminator
        self._loss, self._reconstructions = (loss,), reconstructions

    def forward(self, images_BCYX: torch.Tensor, generator: torch.Generator, step: int) -> PassOutput:
        reconstructed_BCYX = self._reconstructions.get(images_BCYX)
        total, terms = self._loss[0].discriminator(images_BCYX, reconstructed_BCYX, step, self.discriminator)
        return _pass_output(total, terms, len(images_BCYX))


def _pass_output(mean: torch.Tensor, terms: dict[str, torch.Tensor], batch: int) -> PassOutput:
    metrics = {name: Sum(term * batch, batch) for name, term in terms.items()}
    return PassOutput(loss_sum=mean * batch, metrics=metrics)


def tokenizer_batches(task: TokenizerTask) -> ImageBatches:
    """The training images in micro-batches, in training order."""
    return indexed_batches(
        task.datasets,
        task.index,
        TOKENIZER_IMAGES,
        batch=task.config.batch,
        seed=task.config.loop.seed,
        parts=task.parts,
        mirrored_share=task.config.mirrored_share,
    )


class TokenizerProgram:
    def __init__(self, task: TokenizerTask, device: torch.device) -> None:
        config = task.config
        self._task, self._config, self._device = task, config, device
        self._batches = tokenizer_batches(task)
        model, self.initial = tokenizer_to_train(task)
        model = (model if self.initial else model.to(device)).train()
        if task.execution.checkpoint_activations:
            recompute(model.layers(), selective=task.execution.checkpoint_selective)
        discriminator = PatchGan(config.discriminator).to(device)
        if task.start is not None and (task.start / weights.DISCRIMINATOR_FILE).exists():
            discriminator = weights.load_discriminator(task.start, device)
        loss = TokenizerLoss(config.loss, _lpips(config)).to(device)
        reconstructions = Reconstructions()
        generator_pass = Pass(
            name="generator",
            module=GeneratorPass(model, loss, discriminator, reconstructions),
            groups=[{"params": model.trainable_parameters(), "lr": config.learning_rate}],
        )
        discriminator_pass = Pass(
            name="discriminator",
            module=DiscriminatorPass(discriminator, loss, reconstructions),
            groups=[{"params": list(discriminator.parameters()), "lr": config.learning_rate}],
            first_step=config.loss.adversarial_start_step - 1,
            units=None,  # the generator's loss uses it too
        )
        is_adversarial = config.loss.adversarial_weight > 0 and discriminator_pass.first_step < config.loop.steps
        self.passes = (generator_pass, discriminator_pass) if is_adversarial else (generator_pass,)
        self.weights: dict[str, nn.Module] = {GENERATOR: model}
        if is_adversarial:
            self.weights[DISCRIMINATOR] = discriminator

    @property
    def order(self) -> str:
        return self._batches.order

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        micro_batches = self._config.loop.micro_batches_per_step
        self._batches.read_ahead((step + READ_AHEAD_STEPS) * micro_batches + index)
        return self._micro_batch(
            self._batches.micro_batch(step * micro_batches + index),
            micro_batch_seed(self._config.loop.seed, step, index),
        )

    @cached_property
    def validation(self) -> HeldOutImages | None:
        task = self._task
        if task.validation is None:
            return None
        with task.validation.unpacked() as folder:
            batches = indexed_batches(
                task.datasets,
                folder,
                validation_split(TOKENIZER_IMAGES),
                batch=self._config.batch,
                seed=self._config.loop.seed,
                parts=task.parts,
            )
        return HeldOutImages(batches=batches, batch=self._micro_batch)

    @cached_property
    def step_flops(self) -> float:
        return step_flops(partial(tokenizer_facts, self._config), self._batches.anchors) / self._task.parts

    def _micro_batch(self, batch: ImageBatch, seed: int) -> MicroBatch:
        images_BCYX = torch.from_numpy(batch.pixels_BCYX).to(self._device)
        return MicroBatch(data=images_BCYX, weight=len(batch.samples), seed=seed, samples=sample_names(batch))


def tokenizer_to_train(task: TokenizerTask) -> tuple[DualViTok, InitialWeights | None]:
    """The model before training. One to continue from is on the meta device, with the files from which to fill it.

    Names and shapes of those files are compared with the model; of their tensors nothing is read.
    Raises: WeightsError: they differ. PrecheckError: as `build_tokenizer`.
    """
    if task.start is None:
        return build_tokenizer(task), None
    model = weights.empty_model(weights.load_config(task.start))
    _check_same(model, task)
    path, files = task.start / weights.WEIGHTS_FILE, dict[Path, str]()
    files[path] = ""
    check_strictly(model, shapes_of(open_weights(files, GENERATOR), GENERATOR), where=str(path))
    if task.vision is not None:
        weights.check_vision(model, weights.load_vision_config(task.vision))
        tower, path = model.semantic_encoder.model, task.vision / weights.WEIGHTS_FILE
        check_strictly(tower, shapes_of(open_weights({path: ""}, GENERATOR), GENERATOR), where=str(path))
        files[path] = weights.VISION_PREFIX
        tower.requires_grad_(False)
    return model, open_weights(files, GENERATOR)


def build_tokenizer(task: TokenizerTask) -> DualViTok:
    """The model before training: the one to continue from or a new one, with the weights of the pre-trained tower."""
    model = weights.load(task.start) if task.start is not None else DualViTok(task.config.model)
    if task.start is None and task.config.plain_norms_at_start:
        start_as_plain_norms(model)
    _check_same(model, task)
    if task.vision is not None:
        weights.adopt_vision(model, weights.load_vision(task.vision))
    return model


def _check_same(model: DualViTok, task: TokenizerTask) -> None:
    if model.config != task.config.model:
        raise PrecheckError(
            f"train_tokenizer: config.model differs from the tokenizer to continue from ({task.start}); "
            "give the same sizes"
        )


def check_config(config: TrainTokenizerConfig) -> None:
    """Build the tokenizer without its weights. Raises: PrecheckError if its sizes do not match."""
    try:
        with torch.device("meta"):
            DualViTok(config.model)
            PatchGan(config.discriminator)
    except ValueError as error:
        raise PrecheckError(f"train_tokenizer: {error}") from error


def export_tokenizer(task: TokenizerTask, checkpoint: Path, output: Path) -> None:
    """Write the trained tokenizer, and the discriminator if it was trained."""
    model = build_tokenizer(task)
    load_trained_weights(checkpoint, GENERATOR, model)
    weights.save(model, output)
    if has_weights(checkpoint, DISCRIMINATOR):
        discriminator = PatchGan(task.config.discriminator)
        load_trained_weights(checkpoint, DISCRIMINATOR, discriminator)
        weights.save_discriminator(discriminator, output)


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
