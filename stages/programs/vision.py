"""The training program of the vision tower: contrastive pre-training on images and their texts."""

from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from data_pipelines.training_data.image_batches import ImageBatch, ImageBatches, description, sample_names
from models.dualvitok.config import ImageTextConfig
from models.dualvitok.weights import save_vision
from models.vision_pretraining import ImageTextModel
from stages.node_data import READ_AHEAD_STEPS
from stages.programs.held_out_rows import HeldOutImages
from stages.programs.image_costs import step_flops, vision_facts
from stages.programs.image_data import indexed_batches
from stages.programs.index_config import IndexImagesConfig, validation_split
from stages.programs.vision_config import VisionTask, vision_images
from stages.training.checkpoints.reader import load_trained_weights
from stages.training.program import MicroBatch, Pass, PassOutput, Sum, micro_batch_seed

WEIGHTS = "image_text"  # name of the model in a checkpoint


class ContrastivePass(nn.Module):
    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator, step: int) -> PassOutput:
        images_BCYX, ids_BT = data
        outputs = self.model(images_BCYX, ids_BT)
        batch = len(images_BCYX)
        metrics = {
            "image_accuracy": Sum(outputs.image_accuracy * batch, batch),
            "text_accuracy": Sum(outputs.text_accuracy * batch, batch),
        }
        return PassOutput(loss_sum=outputs.loss * batch, metrics=metrics)


def vision_batches(task: VisionTask) -> ImageBatches:
    """The training images in micro-batches, in training order."""
    return _batches(task, task.index, vision_images(task.config))


def _batches(task: VisionTask, index: Path, images: IndexImagesConfig) -> ImageBatches:
    return indexed_batches(task.datasets, index, images, batch=task.config.batch, seed=task.config.loop.seed)


class VisionProgram:
    def __init__(self, task: VisionTask, device: torch.device) -> None:
        config = task.config
        self._task, self._config, self._device = task, config, device
        self._batches = vision_batches(task)
        model = ImageTextModel(config.model).to(device)
        groups = [{"params": list(model.parameters()), "lr": config.learning_rate}]
        self.passes = (Pass(name="contrast", module=ContrastivePass(model), groups=groups),)
        self.weights = {WEIGHTS: model}

    @property
    def order(self) -> str:
        return self._batches.order

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        number = step * self._config.loop.micro_batches_per_step + index
        self._batches.read_ahead(number + READ_AHEAD_STEPS * self._config.loop.micro_batches_per_step)
        return self._micro_batch(
            self._batches.micro_batch(number), micro_batch_seed(self._config.loop.seed, step, index)
        )

    @cached_property
    def validation(self) -> HeldOutImages | None:
        if self._task.validation is None:
            return None
        with self._task.validation.unpacked() as folder:
            batches = _batches(self._task, folder, validation_split(vision_images(self._config)))
        return HeldOutImages(batches=batches, batch=self._micro_batch)

    @cached_property
    def step_flops(self) -> float:
        return step_flops(partial(vision_facts, self._config), self._batches.anchors)

    def _micro_batch(self, batch: ImageBatch, seed: int) -> MicroBatch:
        ids_BT = torch.stack([byte_ids(description(sample), self._config.max_bytes) for sample in batch.samples])
        images_BCYX = torch.from_numpy(batch.pixels_BCYX).to(self._device)
        return MicroBatch(
            data=(images_BCYX, ids_BT.to(self._device)),
            weight=len(batch.samples),
            seed=seed,
            samples=sample_names(batch),
        )


def byte_ids(text: str, max_bytes: int) -> torch.Tensor:
    """int64 [max_bytes]: the bytes of a text plus one, cut or padded with 0; an empty text is one space."""
    data = (text.encode() or b" ")[:max_bytes]
    return torch.tensor([*(byte + 1 for byte in data), *([0] * (max_bytes - len(data)))])


def export_tower(config: ImageTextConfig, checkpoint: Path, output: Path) -> None:
    """Write the trained tower without the text encoder, in the format that the tokenizer reads."""
    model = ImageTextModel(config)
    load_trained_weights(checkpoint, WEIGHTS, model)
    save_vision(model.vision, output)
