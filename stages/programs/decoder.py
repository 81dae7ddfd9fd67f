"""The training program of the diffusion decoder. The tokenizer is frozen, and its codes are read from token shards."""

import copy
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_pipelines.tokens.token_shards import TokenShard
from data_pipelines.training_data.image_batches import ImageBatch, ImageBatches, sample_names
from models.diffusion import weights
from models.diffusion.base_model import adopt_base
from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.unet import make_unet, start_with_even_cells, unet_blocks, unet_layers
from models.dualvitok.config import DualViTokConfig
from models.dualvitok.model import Codebooks, Codes
from models.dualvitok.weights import load_codebooks
from models.recompute import recompute
from models.strict_weights import check_strictly
from orchestrator.errors import PrecheckError
from stages.node_data import READ_AHEAD_STEPS
from stages.programs.decoder_config import DECODER_IMAGES, DecoderTask, TrainDecoderConfig
from stages.programs.held_out_rows import HeldOutImages
from stages.programs.image_costs import decoder_facts, step_flops
from stages.programs.image_data import indexed_batches
from stages.programs.index_config import IndexImagesConfig, validation_split
from stages.programs.token_pairing import check_pairs, pair_tokens
from stages.training.checkpoints.reader import load_trained_weights, open_weights, shapes_of
from stages.training.program import InitialWeights, MicroBatch, Pass, PassOutput, micro_batch_seed

WEIGHTS = "unet"  # name of the network in a checkpoint
MAX_OPEN_SHARDS = 64


class DenoisingPass(nn.Module):
    def __init__(self, decoder: DiffusionDecoder, codebooks: Codebooks, *, last_level_share: float = 0.0) -> None:
        super().__init__()
        self._last_level_share = last_level_share
        self.unet = decoder.unet
        self._frozen = (decoder, codebooks)  # a tuple keeps them from being parameters of this pass

    def forward(self, data: tuple[torch.Tensor, Codes], generator: torch.Generator, step: int) -> PassOutput:
        decoder, codebooks = self._frozen
        images_BCYX, codes = data
        with torch.no_grad():
            features_BZYX = codebooks.code_features(codes)
        losses_B = decoder.losses(images_BCYX, features_BZYX, generator, last_level_share=self._last_level_share)
        return PassOutput(loss_sum=losses_B.sum())


class TokenizedImages:
    """The images that have codes, in training order, and their codes."""

    def __init__(self, task: DecoderTask) -> None:
        self._task = task
        self._sources = pair_tokens("train_decoder", task.datasets, task.tokens)
        self._shard = lru_cache(maxsize=MAX_OPEN_SHARDS)(TokenShard)
        self.batches = self._batches(task.index, DECODER_IMAGES)

    @property
    def validation(self) -> ImageBatches | None:
        """The images to validate on."""
        if self._task.validation is None:
            return None
        with self._task.validation.unpacked() as folder:
            return self._batches(folder, validation_split(DECODER_IMAGES))

    def _batches(self, index: Path, images: IndexImagesConfig) -> ImageBatches:
        config = self._task.config
        return indexed_batches(
            self._task.datasets,
            index,
            images,
            batch=config.batch,
            seed=config.loop.seed,
            scale=config.model.enlarge,
            parts=self._task.parts,
        )

    def codes(self, batch: ImageBatch) -> Codes:
        found = [
            self._shard(self._sources[number].token_shard(shard)).codes(sample.sample_id, 0)
            for (number, shard), sample in zip(batch.shards, batch.samples, strict=True)
        ]
        return Codes(
            semantic_BYX=torch.stack([torch.from_numpy(semantic).long() for semantic, _ in found]),
            pixel_BYX=torch.stack([torch.from_numpy(pixel).long() for _, pixel in found]),
        )


class DecoderProgram:
    def __init__(self, task: DecoderTask, device: torch.device) -> None:
        config = task.config
        self._task, self._device = task, device
        self._images = TokenizedImages(task)
        decoder, self.initial = decoder_to_train(task, device)
        decoder.train()
        if task.execution.checkpoint_activations:
            recompute(unet_layers(decoder.unet), selective=task.execution.checkpoint_selective)
        groups = [{"params": list(decoder.unet.parameters()), "lr": config.learning_rate}]
        self._codebooks = load_codebooks(task.tokenizer)
        codebooks = copy.deepcopy(self._codebooks).to(device)
        module = DenoisingPass(decoder, codebooks, last_level_share=config.last_level_share)
        self.passes = (Pass(name="denoising", module=module, groups=groups, units=unet_blocks(decoder.unet)),)
        self.weights = {WEIGHTS: decoder.unet}

    @property
    def order(self) -> str:
        return self._images.batches.order

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        loop = self._task.config.loop
        self._images.batches.read_ahead((step + READ_AHEAD_STEPS) * loop.micro_batches_per_step + index)
        batch = self._images.batches.micro_batch(step * loop.micro_batches_per_step + index)
        return self._micro_batch(batch, micro_batch_seed(loop.seed, step, index))

    @cached_property
    def validation(self) -> HeldOutImages | None:
        batches = self._images.validation
        return None if batches is None else HeldOutImages(batches=batches, batch=self._micro_batch)

    @cached_property
    def step_flops(self) -> float:
        task = self._task
        return step_flops(partial(decoder_facts, task.config), self._images.batches.anchors) / task.parts

    def _micro_batch(self, batch: ImageBatch, seed: int) -> MicroBatch:
        codes = self._images.codes(batch)
        self._codebooks.check(codes)  # in host memory
        return MicroBatch(
            data=(torch.from_numpy(batch.pixels_BCYX).to(self._device), codes.to(self._device)),
            weight=len(batch.samples),
            seed=seed,
            samples=sample_names(batch),
        )


def decoder_to_train(task: DecoderTask, device: torch.device) -> tuple[DiffusionDecoder, InitialWeights | None]:
    """The decoder before training. The network of one to continue from is on the meta device, with its files.

    Names and shapes of those files are compared with the network; of its tensors nothing is read.
    Raises: WeightsError: they differ. PrecheckError: as `build_decoder`.
    """
    if task.start is None:
        return build_decoder(task).to(device), None
    decoder, folder = weights.load_without_network(task.start), task.start / "unet"
    _check_same(decoder, task)
    initial = open_weights(dict.fromkeys(weights.part_files(folder), ""), WEIGHTS)
    check_strictly(decoder.unet, shapes_of(initial, WEIGHTS), where=str(folder))
    if decoder.vae is not None:
        decoder.vae.to(device)
    return decoder, initial


def build_decoder(task: DecoderTask) -> DiffusionDecoder:
    """The decoder before training: the one to continue from, the widened base model, or a new one."""
    if task.start is not None:
        decoder = weights.load(task.start)
        _check_same(decoder, task)
        return decoder
    torch.manual_seed(task.config.loop.seed)
    if task.config.base_model_id:
        return adopt_base(task.config.model, Path(task.config.base_model))
    decoder = DiffusionDecoder(task.config.model)
    if task.config.even_cells_at_start:
        start_with_even_cells(decoder.unet, task.config.model.cell_px)
    return decoder


def _check_same(decoder: DiffusionDecoder, task: DecoderTask) -> None:
    if decoder.config != task.config.model:
        raise PrecheckError(
            f"train_decoder: config.model differs from the decoder to continue from ({task.start}); give the same sizes"
        )


def check_config(config: TrainDecoderConfig, inputs: Mapping[str, Any]) -> None:
    """Check the network's sizes by building it without weights, and against the tokenizer whose codes it reads.

    Raises: PrecheckError if they do not match, or if not every dataset has its tokens.
    """
    check_pairs("train_decoder", inputs)
    try:
        with torch.device("meta"):
            make_unet(config.model)
    except ValueError as error:
        raise PrecheckError(f"train_decoder: model: {error}") from error
    tokenizer = getattr(inputs.get("tokenizer"), "model", None)  # only the config of `train_tokenizer` has the sizes
    if not isinstance(tokenizer, DualViTokConfig):
        return
    expected = (tokenizer.semantic.code_width, tokenizer.pixel.code_width, tokenizer.pixel.factor)
    found = (config.model.semantic_channels, config.model.pixel_channels, config.model.code_px)
    if found != expected:
        raise PrecheckError(
            f"train_decoder: model.semantic_channels, pixel_channels and code_px are {found}, but the tokenizer "
            f"has {expected}"
        )


def export_decoder(task: DecoderTask, checkpoint: Path, output: Path) -> None:
    decoder = build_decoder(task)
    load_trained_weights(checkpoint, WEIGHTS, decoder.unet)
    weights.save(decoder, output)
