"""The training program of the unified language model."""

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from data_pipelines.datasets.reader import CuratedDataset, original_files
from data_pipelines.datasets.samples import sample_name
from data_pipelines.images.model_input import grids
from data_pipelines.inference.input_settings import ModelInput, save_input
from data_pipelines.tokens.vocabulary import TOKENIZER_FILE, VOCABULARY_FILE, load_vocabulary
from data_pipelines.training_data.index import Rendering
from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.order import TrainingOrder
from data_pipelines.training_data.packing import PackedRow
from data_pipelines.training_data.sources import SourceFolders
from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.config import DualViTokConfig
from models.mllm import weights
from models.mllm.batch import PackedBatch, part_of_rows, plan_batch
from models.mllm.code_rows import start_from_codebooks
from models.mllm.compiled import compile_layers
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig, VisionBranchConfig
from models.mllm.model import KINDS, UnifiedMllm
from models.mllm.phases import find_phase, parameter_groups
from models.mllm.sequence_parallel import sequence_group
from models.mllm.vision import VisionBranch
from models.mllm.vocabulary import VisionVocabulary
from models.mllm.weights import empty_model
from models.recompute import recompute
from models.strict_weights import check_strictly
from orchestrator.errors import PrecheckError
from stages.extend_vocabulary import ExtendVocabularyConfig
from stages.node_data import READ_AHEAD_STEPS
from stages.programs.held_out_rows import HeldOutRows
from stages.programs.mllm_config import MllmExecution, MllmTask, TrainMllmConfig
from stages.programs.mllm_cost import mllm_facts
from stages.programs.sample_data import SampleData, index_metrics, make_index, open_index, rendering_of
from stages.programs.token_pairing import check_pairs, pair_tokens
from stages.training.checkpoints.reader import load_trained_weights, open_weights, shapes_of
from stages.training.program import InitialWeights, MicroBatch, Original, Pass, PassOutput, Sum, micro_batch_seed
from stages.training.strategies.mesh import check_sequence_workers

WEIGHTS = "mllm"  # name of the model in a checkpoint
MEASURED_ROWS = 1_000  # at the start of the training, for the share of padding
MEASURED_ROWS_OF_FLOPS = 100  # the same where the workers ask
NO_TEXT = "train_mllm: config.text: missing; expected the sizes of the text model, or the input start"
SMALL_TEXT = TextModelConfig(  # has the parameters of every other one, apart from their sizes
    hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_key_value_heads=1, tie_embeddings=True
)


class LanguagePass(nn.Module):
    def __init__(self, model: UnifiedMllm) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: PackedBatch, generator: torch.Generator, step: int) -> PassOutput:
        output = self.model(data)
        metrics = {
            f"{kind}_loss": Sum(output.metrics[f"{kind}_loss_sum"], output.metrics[f"{kind}_tokens"]) for kind in KINDS
        }
        return PassOutput(loss_sum=output.loss_sum, metrics=metrics, kinds=KINDS, sample_sums=output.document_sums)


class MllmProgram:
    weight_unit = "tokens"
    unit_types = (Qwen2DecoderLayer,)
    rebuilds_frozen = True  # from the tokenizer, the base model or the model to continue from, or by the seed

    def __init__(self, task: MllmTask, device: torch.device) -> None:
        config = task.config
        self._task, self._config, self._device = task, config, device
        rendering = _rendering(task)
        self._data = TrainingData(_sources(task), config.data, rendering, task.index)
        self.sequence_workers = task.execution.sequence_workers
        self._group = None
        if self.sequence_workers > 1:
            check_sequence(task, [dist.get_world_size() if dist.is_initialized() else 1])
            self._group = sequence_group(self.sequence_workers)
        model, self.initial = model_to_train(task)
        self._model = (model if self.initial else model.to(device)).train()
        self._prepare_layers(task.execution)
        groups = _parameter_groups(config, self._model)
        units = tuple(self._model.language.layers)
        self.passes = (Pass(name="language", module=LanguagePass(self._model), groups=groups, units=units),)
        self.weights = {WEIGHTS: self._model}

    def _prepare_layers(self, execution: MllmExecution) -> None:
        model, selective = self._model, execution.checkpoint_selective
        if execution.compile_layers:
            compile_layers(model.language.layers, backend=execution.compile_layers)
        if execution.checkpoint_activations:
            recompute(model.language.layers, selective=selective)
        if execution.checkpoint_vision and model.vision is not None:
            recompute(model.vision.semantic_encoder.blocks, selective=selective)
            recompute((*model.vision.pixel_encoder.down, model.vision.pixel_encoder.mid), selective=selective)

    @property
    def order(self) -> str:
        return self._data.order.digest

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        rows = self._rows(step, index)
        for row in rows:
            self._data.read_ahead(row + READ_AHEAD_STEPS * self._data.order.rows_per_step)
        return self._micro_batch(
            [self._data.row(row) for row in rows], micro_batch_seed(self._config.loop.seed, step, index)
        )

    @cached_property
    def validation(self) -> HeldOutRows | None:
        split = self._task.validation
        if split is not None:
            with split.index.unpacked() as folder:
                data = TrainingData(_sources(self._task), split.config, _rendering(self._task), folder)
            return HeldOutRows(rows=data.first_rows, batch=partial(self._micro_batch, parts=split.parts))
        if not self._config.data.held_out_share:
            return None
        return HeldOutRows(rows=self._data.held_out_rows, batch=self._micro_batch)

    def _micro_batch(self, packed: Sequence[PackedRow], seed: int, parts: Sequence[int] = ()) -> MicroBatch:
        """`parts`: numbers of the parts of the training, where those of the rows are others."""
        batch = packed_batch(packed)
        own = batch if self._group is None else part_of_rows(batch, self._group, self._features(packed))
        return MicroBatch(
            data=own.to(self._device),
            weight=self._model.targets_weight(batch.planned().targets_M),
            seed=seed,
            samples=tuple(sample for row in packed for sample in row.samples),
            sources=tuple(parts[part] if parts else part for row in packed for part in row.parts),
            tokens=float(batch.ids_BT.numel()),
            padding=float(batch.ids_BT.numel() - sum(row.num_tokens for row in packed)),
        )

    def _features(self, packed: Sequence[PackedRow]) -> list[tuple[int, int]]:
        """How many semantic and pixel features each image has."""
        factor = self._model.config.vision.pixel.factor
        sizes = [grids(image.shape[1:], factor) for row in packed for image in row.images]
        return [(math.prod(cells), math.prod(codes)) for cells, codes in sizes]

    @property
    def sources(self) -> tuple[str, ...]:
        return part_names(self._config)

    @cached_property
    def step_flops(self) -> float:
        order, config = self._data.order, self._config
        facts = mllm_facts(config, self._model.config, recompute=False)
        used = order.utilization(MEASURED_ROWS_OF_FLOPS)
        return facts.training_flops * order.rows_per_step * used

    def originals(self, step: int, index: int, samples: Collection[str]) -> list[Original]:
        stored = [sample for row in self._rows(step, index) for sample in self._data.stored(row)]
        return [file for sample in stored if sample_name(sample.sample) in samples for file in original_files(sample)]

    def _rows(self, step: int, index: int) -> range:
        rows, micro_batches = self._data.order.rows_per_step, self._config.loop.micro_batches_per_step
        first, stop = (step * rows + number * rows // micro_batches for number in (index, index + 1))
        return range(first, stop)


def packed_batch(rows: Sequence[PackedRow]) -> PackedBatch:
    """Rows of equal length as tensors."""
    ids_BT = torch.stack([torch.from_numpy(row.ids) for row in rows])
    labels_BT = torch.stack([torch.from_numpy(row.labels) for row in rows])
    segments_BT = torch.stack([torch.from_numpy(row.segments).long() for row in rows])
    documents = tuple(len(row.samples) for row in rows)
    return PackedBatch(
        ids_BT=ids_BT,
        labels_BT=labels_BT,
        positions_BT=torch.stack([torch.from_numpy(row.positions) for row in rows]),
        segments_BT=segments_BT,
        images=[torch.from_numpy(image) for row in rows for image in row.images],
        documents=documents,
        plan=plan_batch(ids_BT, labels_BT, segments_BT, documents),
    )


def part_names(config: TrainMllmConfig) -> tuple[str, ...]:
    """The parts of the mixture, as metrics name them."""
    return tuple(f"{number} {'+'.join(part.tasks)}" for number, part in enumerate(config.data.parts))


def check_sequence(task: MllmTask, workers: Sequence[int]) -> None:
    """`workers`: numbers of them that the training may have. Raises: PrecheckError: see `check_sequence_workers`."""
    text = task.config.text if task.start is None else weights.load_config(task.start).text
    if text is None:
        raise PrecheckError(NO_TEXT)
    check_sequence_workers(
        task.execution.sequence_workers,
        workers=workers,
        num_heads=text.num_heads,
        row_tokens=task.config.data.row_tokens,
    )


def build_index(task: MllmTask) -> dict[str, float]:
    """Make the index of the training data, once for all workers. Returns its metrics."""
    return index_metrics(make_index(sample_data(task), task.index, task.guards))


def use_index(task: MllmTask) -> dict[str, float]:
    """Check the index that was made before. Returns its metrics. Raises: LoadingError: see `open_index`."""
    return index_metrics(open_index(sample_data(task), task.index, task.guards))


def data_facts(order: TrainingOrder, config: TrainMllmConfig) -> dict[str, float]:
    """What follows from the lengths of the samples: rows of a step, their used share, epochs of each part.

    Raises: PrecheckError if a step has fewer rows than micro-batches.
    """
    micro_batches, rows = config.loop.micro_batches_per_step, order.rows_per_step
    if rows < micro_batches:
        raise PrecheckError(
            f"train_mllm: data.samples_per_step: {config.data.samples_per_step} samples fill {rows} rows of "
            f"{config.data.row_tokens} tokens, too few for loop.micro_batches_per_step ({micro_batches}); set it to at "
            f"most {rows}, and resources.workers too, or shorten data.row_tokens"
        )
    epochs = {
        f"epochs/{name}": share for name, share in zip(part_names(config), order.epochs(config.loop.steps), strict=True)
    }
    measured = min(config.loop.steps * rows, MEASURED_ROWS)
    return {"rows_per_step": float(rows), "used_token_share": order.utilization(measured), **epochs}


def training_order(task: MllmTask) -> TrainingOrder:
    """The order of the training data, from the index in the task's folder."""
    return TrainingData(_sources(task), task.config.data, _rendering(task), task.index).order


def model_to_train(task: MllmTask) -> tuple[UnifiedMllm, InitialWeights | None]:
    """The model before training. One to continue from is on the meta device, with the file from which to fill it.

    Names and shapes of that file are compared with the model; of its tensors nothing is read.
    Raises: WeightsError: they differ. PrecheckError: as `build_mllm`.
    """
    if task.start is None:
        return build_mllm(task), None
    path = task.start / weights.WEIGHTS_FILE
    initial = open_weights({path: ""}, WEIGHTS)
    shapes = shapes_of(initial, WEIGHTS)
    model = empty_model(_config_to_continue(task), with_vision=any(name.startswith("vision.") for name in shapes))
    check_strictly(model, shapes, where=str(path))
    return model, initial


def _config_to_continue(task: MllmTask) -> MllmConfig:
    """Of the model that training goes on from. Raises: PrecheckError if its tokens or its vision are other ones."""
    assert task.start is not None, "asked where there is such a model"
    config, tokens = weights.load_config(task.start), load_vocabulary(task.vocabulary).vision
    if (config.tokens, config.vision) != (_token_table(tokens, config.tokens.rows), _vision(task)):
        raise PrecheckError(
            f"train_mllm: the model to continue from ({task.start}) has other tokens or vision than this stage's "
            "vocabulary and tokenizer; use the ones it was trained with"
        )
    return replace(config, loss_weights=task.config.loss_weights, checkpoint_activations=False)


def _vision(task: MllmTask) -> VisionBranchConfig:
    tokenizer = tokenizer_weights.load_config(task.tokenizer)
    return VisionBranchConfig(tower=tokenizer.vision, pixel=tokenizer.pixel)


def build_mllm(task: MllmTask) -> UnifiedMllm:
    """The whole model before training: the one to continue from, or a new one with the tokenizer's image encoders."""
    if task.start is not None:
        config = _config_to_continue(task)
        model = weights.load(task.start)
        model.config = config
        return model
    vision, tokens = _vision(task), load_vocabulary(task.vocabulary).vision
    if task.config.text is None:
        raise PrecheckError(NO_TEXT)
    config = mllm_config(task.config, task.config.text, tokens, vision)
    torch.manual_seed(task.config.loop.seed)
    branch = VisionBranch(vision)
    tokenizer_weights.load_encoders(task.tokenizer, branch.semantic_encoder, branch.pixel_encoder)
    model = UnifiedMllm(config, branch)
    if task.config.scaled_residuals:
        model.scale_residuals()
    if task.config.base_model_id:
        weights.adopt_text_model(model, Path(task.config.base_model))
    if task.config.image_rows == "codebook":
        start_from_codebooks(model, tokenizer_weights.load_codebooks(task.tokenizer))
    return model


def mllm_config(
    config: TrainMllmConfig, text: TextModelConfig, tokens: VisionVocabulary, vision: VisionBranchConfig
) -> MllmConfig:
    table = _token_table(tokens, config.padded_rows or tokens.total)
    return MllmConfig(text=text, tokens=table, vision=vision, loss_weights=config.loss_weights)


def _token_table(tokens: VisionVocabulary, rows: int) -> TokenTableConfig:
    return TokenTableConfig(
        first_vision_id=tokens.first_id,
        semantic_codes=tokens.semantic_codes,
        pixel_codes=tokens.pixel_codes,
        resolutions=tuple(tokens.resolutions),
        rows=rows,
    )


def check_config(config: TrainMllmConfig, inputs: Mapping[str, Any]) -> None:
    """Build the model without its weights, and check that every parameter has a rule in the phase.

    Raises: PrecheckError if not, if the tokenizer's sizes do not match the vocabulary's, if not every dataset has its
    tokens, or if the sizes of the text model are missing, or given although the model to continue from has them.
    """
    check_pairs("train_mllm", inputs)
    text = _checked_text(config, inputs)
    tokenizer = getattr(inputs.get("tokenizer"), "model", None)  # only the config of `train_tokenizer` has the sizes
    vocabulary = inputs.get("vocabulary")
    if not isinstance(tokenizer, DualViTokConfig) or not isinstance(vocabulary, ExtendVocabularyConfig):
        return
    try:
        tokens = VisionVocabulary(
            first_id=vocabulary.first_id or vocabulary.text_vocabulary,
            semantic_codes=tokenizer.semantic.codebook_size,
            pixel_codes=tokenizer.pixel.codebook_size,
            resolutions=vocabulary.resolutions,
        )
        vision = VisionBranchConfig(tower=tokenizer.vision, pixel=tokenizer.pixel)
        model = empty_model(mllm_config(config, text, tokens, vision), with_vision=True)
        _parameter_groups(config, model)
    except ValueError as error:
        raise PrecheckError(f"train_mllm ({config.phase}): {error}") from error


def _checked_text(config: TrainMllmConfig, inputs: Mapping[str, Any]) -> TextModelConfig:
    """The sizes of the text model; small ones where only the model to continue from has them."""
    if "start" not in inputs:
        if config.text is None:
            raise PrecheckError(NO_TEXT)
        return config.text
    given = {
        "text": config.text,
        "padded_rows": config.padded_rows,
        "image_rows": config.image_rows != "random",
        "scaled_residuals": config.scaled_residuals,
        "base_model_id": config.base_model_id,
    }
    if repeated := [name for name, value in given.items() if value]:
        raise PrecheckError(
            f"train_mllm ({config.phase}): config.{repeated[0]}: found beside the input start, whose model has "
            f"its own; remove {', '.join(repeated)} from the config"
        )
    known = inputs["start"].text if isinstance(inputs["start"], TrainMllmConfig) else None
    return known or SMALL_TEXT


def export_mllm(task: MllmTask, checkpoint: Path, output: Path) -> None:
    """Write the trained model with its vocabulary and its input settings."""
    model = build_mllm(task)
    load_trained_weights(checkpoint, WEIGHTS, model)
    weights.save(model, output)
    for name in (VOCABULARY_FILE, TOKENIZER_FILE):
        shutil.copyfile(task.vocabulary / name, output / name)
    anchors = sorted({anchor for folder in task.datasets for anchor in CuratedDataset(folder).anchors})
    save_input(ModelInput(sizes=_rendering(task).sizes, anchors=tuple(anchors)), output)


def _parameter_groups(config: TrainMllmConfig, model: UnifiedMllm) -> list[dict[str, Any]]:
    rates = {group: rate for group, rate in vars(config.learning_rates).items() if rate}
    decay = config.loop.optimizer.weight_decay
    return parameter_groups(model, find_phase(config.phase), learning_rates=rates, weight_decay=decay)


def _sources(task: MllmTask) -> list[SourceFolders]:
    return pair_tokens("train_mllm", task.datasets, task.tokens)


def _rendering(task: MllmTask) -> Rendering:
    return rendering_of(task.config.data, vocabulary=task.vocabulary, tokenizer=task.tokenizer)


def sample_data(task: MllmTask) -> SampleData:
    return SampleData(sources=_sources(task), config=task.config.data, rendering=_rendering(task))
