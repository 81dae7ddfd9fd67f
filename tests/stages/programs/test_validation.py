"""Every training is judged by data that it does not train on, and says where it sees them nevertheless."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.tokens.token_shards import TokenizerIdentity
from data_pipelines.training_data.config import LoaderConfig, LoadingError, MixturePart
from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.config import DiscriminatorConfig, LossConfig, VisionConfig
from models.dualvitok.model import DualViTok
from orchestrator.errors import PrecheckError
from orchestrator.stage import StageKind
from orchestrator.testing import FolderContext, folder_context
from stages.programs.decoder import DecoderProgram
from stages.programs.decoder_config import DECODER_IMAGES, DecoderTask, TrainDecoderConfig
from stages.programs.image_data import images_index
from stages.programs.index_config import IndexImagesConfig
from stages.programs.mllm import MllmProgram, build_index, sample_data, training_order
from stages.programs.mllm_config import LearningRates, MllmExecution, MllmTask, TrainMllmConfig
from stages.programs.tokenizer import TokenizerProgram
from stages.programs.tokenizer_config import TOKENIZER_IMAGES, TokenizerTask, TrainTokenizerConfig
from stages.programs.validation import VALIDATION_OVERLAP, validation_images, validation_samples
from stages.programs.vision import VisionProgram
from stages.programs.vision_config import TrainVisionConfig, VisionTask, vision_images
from stages.train_decoder import TRAIN_DECODER
from stages.train_mllm import TRAIN_MLLM
from stages.train_tokenizer import TRAIN_TOKENIZER
from stages.train_vision import TRAIN_VISION
from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, RecomputingExecution, TrainingExecution, WatchSettings
from stages.training.loop import run_worker
from tests.data_pipelines.conftest import Wanted, write_dataset, write_tokens
from tests.data_pipelines.tiny_run import DECODER, TEXT, TOKENIZER
from tests.stages.index_world import Inputs, write_inputs
from tests.stages.training.test_loop import EVERY_5, Recorder
from tests.stages.training.toy import CPU

WATCH = WatchSettings(validate_every=2, peak_tflops=1e-6, prove_nodes=False)
LOOP = LoopConfig(steps=4, micro_batches_per_step=2, seed=1)
IDENTITY = TokenizerIdentity(sha256="a" * 64, semantic_codes=16, pixel_codes=32, pixel_factor=8)
VISION = TrainVisionConfig(
    vision=VisionConfig(depth=1, width=16, num_heads=2, output_width=16), batch=2, learning_rate=1e-3, loop=LOOP,
    text_width=16, text_depth=1, embedding_width=8, max_bytes=16,
)  # fmt: skip
TOKENIZER_TRAINING = TrainTokenizerConfig(
    model=TOKENIZER, loss=LossConfig(perceptual="none", adversarial_start_step=2), batch=2, learning_rate=1e-3,
    loop=LOOP, discriminator=DiscriminatorConfig(channels=4, layers=1),
)  # fmt: skip
DECODER_TRAINING = TrainDecoderConfig(model=DECODER, batch=2, learning_rate=1e-3, loop=LOOP)


def samples_of(count: int, split: str, first_image: int) -> list[Wanted]:
    turns = ("Generate an image of {resolution_tag}, the content of image is a dot\n", "<image>")
    return [
        Wanted(task="generation", turns=turns, anchors=((32, 32),), split=split, image=first_image + number)
        for number in range(count)
    ]


class World:
    """Datasets of images with codes, and a tokenizer."""

    def __init__(self, folder: Path, *datasets: Sequence[Wanted], names: Sequence[str] = ("one", "two")) -> None:
        self.datasets, self.tokens, self.ids = [], [], []
        for number, samples in enumerate(datasets):
            dataset, tokens = folder / f"dataset-{number}", folder / f"tokens-{number}"
            self.ids.append(write_dataset(dataset, samples, name=names[number]))
            write_tokens(tokens, dataset, samples, self.ids[-1], tokenizer=IDENTITY)
            self.datasets.append(dataset)
            self.tokens.append(tokens)
        self.tokenizer = folder / "tokenizer"
        self.tokenizer.mkdir()
        tokenizer_weights.save(DualViTok(TOKENIZER), self.tokenizer)

    def context(self, kind: StageKind[Any], folder: Path, watch: WatchSettings = WATCH) -> FolderContext:
        of_slot = {"datasets": self.datasets, "tokens": self.tokens, "tokenizer": self.tokenizer}
        inputs = {slot: value for slot, value in of_slot.items() if slot in kind.inputs}
        settings = TrainingExecution if kind is TRAIN_VISION else RecomputingExecution
        return folder_context(kind, folder, inputs=inputs, execution=settings(watch=watch))


def make_task(name: str, world: World, context: FolderContext) -> tuple[Any, Any]:
    """The class of the program, and its task."""
    datasets, tokens = tuple(world.datasets), tuple(world.tokens)

    def indices(images: IndexImagesConfig, *more: Any) -> dict[str, Any]:
        index = images_index(context, images, datasets, *more)
        return {"index": index, "validation": validation_images(context, images, datasets, index, *more)}

    if name == "vision":
        return VisionProgram, VisionTask(config=VISION, datasets=datasets, **indices(vision_images(VISION)))
    if name == "tokenizer":
        both = indices(TOKENIZER_IMAGES)
        return TokenizerProgram, TokenizerTask(
            config=TOKENIZER_TRAINING, datasets=datasets, vision=None, start=None, **both
        )
    both = indices(DECODER_IMAGES, tokens)
    return DecoderProgram, DecoderTask(
        config=DECODER_TRAINING, datasets=datasets, tokens=tokens, tokenizer=world.tokenizer, start=None, **both
    )


KINDS = {
    "vision": (TRAIN_VISION, VISION),
    "tokenizer": (TRAIN_TOKENIZER, TOKENIZER_TRAINING),
    "decoder": (TRAIN_DECODER, DECODER_TRAINING),
}
LOSSES = {
    "vision": ["contrast/loss"],
    "tokenizer": ["generator/loss", "discriminator/loss"],
    "decoder": ["denoising/loss"],
}


@pytest.mark.parametrize("name", KINDS)
def test_a_training_on_images_is_judged_by_split_val_and_says_its_use_of_the_device(name: str, tmp_path: Path) -> None:
    world = World(tmp_path, [*samples_of(8, "train", 100), *samples_of(4, "val", 200)])
    context = world.context(KINDS[name][0], tmp_path / "context")
    program_class, task = make_task(name, world, context)
    recorder = Recorder()
    run_worker(
        program_class,
        task,
        LOOP,
        retry=EVERY_5,
        checkpoints=context.checkpoints,
        reporter=recorder,
        worker=WorkerRank(rank=0, world_size=1, device=CPU),
        execution=TrainingExecution(watch=WATCH),
    )
    for loss in LOSSES[name]:
        found = [step for step, metrics in recorder.steps if f"validation/{loss}" in metrics]
        assert found == [2, 4]
    assert all(metrics["mfu"] > 0 and metrics["weight_per_s"] > 0 for step, metrics in recorder.steps if step)
    program = program_class(task, CPU)
    judged = {
        sample
        for at in range(program.validation.num_micro_batches)
        for sample in program.validation.micro_batch(at).samples
    }
    trained = {sample for step in range(4) for at in range(2) for sample in program.micro_batch(step, at).samples}
    assert {sample.split()[0] for sample in judged} == set(world.ids[0][8:])
    assert {sample.split()[0] for sample in trained} == set(world.ids[0][:8])


@pytest.mark.parametrize("name", KINDS)
def test_validation_images_that_another_dataset_trains_on_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """The two datasets were curated apart: image 201 is in both."""
    world = World(tmp_path, [*samples_of(4, "train", 100), *samples_of(3, "val", 200)], samples_of(2, "train", 201)[:1])
    kind, config = KINDS[name]
    shared = pq.read_table(world.datasets[1] / "ledger" / "two-00000.parquet")["images"].to_pylist()[0][0]
    context = world.context(kind, tmp_path / "context")
    with pytest.raises(
        LoadingError, match=rf"1 of 3 validation images are trained on: {shared} \(dataset 1, shard two-00000\)"
    ):
        kind.run(config, context)
    assert context.checkpoints.latest() is None


@pytest.mark.parametrize("name", KINDS)
def test_a_training_on_images_without_split_val_is_refused(name: str, tmp_path: Path) -> None:
    world = World(tmp_path, samples_of(4, "train", 100))
    kind, config = KINDS[name]
    with pytest.raises(PrecheckError, match="validate_every: the datasets have no image of split 'val'"):
        kind.run(config, world.context(kind, tmp_path / "context"))


def test_near_copies_in_another_dataset_are_named_and_training_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, [*samples_of(2, "train", 100), *samples_of(2, "val", 200)], samples_of(3, "train", 300))
    photo = 0x0F0F_3C3C_55AA_F00F
    add_hashes(
        world.datasets[0], "one-00000", [0x9D3A_1F72_6B08_C5E4, 0x60C5_E08D_94F7_3A1B, photo, 0x5A69_A596_3CC3_F00F]
    )
    add_hashes(world.datasets[1], "two-00000", [0xB1E4_8D27_0A5F_936C, photo ^ 0b1011, photo ^ 0xFFFF])
    context = world.context(TRAIN_VISION, tmp_path / "context")
    images = vision_images(VISION)
    datasets = tuple(world.datasets)
    assert validation_images(context, images, datasets, images_index(context, images, datasets)) is not None
    ((kind, fields),) = context.tracker.events
    assert kind == VALIDATION_OVERLAP
    assert fields["samples"] == [world.ids[0][2]]
    assert f"near copy in {world.ids[1][1][:16]} of {world.datasets[1]}" in str(fields["message"])


def add_hashes(dataset: Path, shard: str, hashes: Sequence[int]) -> None:
    path = dataset / "ledger" / f"{shard}.parquet"
    column = pa.array([[phash] for phash in hashes], pa.list_(pa.uint64()))
    pq.write_table(pq.read_table(path).append_column("phash", column), path)


def mllm_context(folder: Path, inputs: Mapping[str, Any]) -> FolderContext:
    execution = MllmExecution(watch=WATCH, max_dropped_share=0.9)
    return folder_context(TRAIN_MLLM, folder, inputs=inputs, execution=execution)


MLLM = TrainMllmConfig(
    phase="stage1",
    learning_rates=LearningRates(adapter=1e-3, image_tokens=1e-3),
    data=LoaderConfig(
        parts=tuple(
            MixturePart(tasks=("text", "understanding", "generation", "editing"), weight=1.0, dataset=number)
            for number in range(2)
        ),
        seed=5, row_tokens=400, rows_per_step=2,
    ),
    loop=LOOP,
    text=TEXT,
)  # fmt: skip


def mllm_task(folder: Path, inputs: Inputs, held_out_share: float = 0.0) -> tuple[MllmTask, FolderContext]:
    """With its index, and the context of its stage."""
    task = MllmTask(
        config=replace(MLLM, data=replace(MLLM.data, held_out_share=held_out_share)),
        datasets=tuple(inputs["datasets"]),
        tokens=tuple(inputs["tokens"]),
        tokenizer=inputs["tokenizer"][0],
        vocabulary=inputs["vocabulary"][0],
        start=None,
        index=folder / "index",
    )
    build_index(task)
    return task, mllm_context(folder / "context", inputs)


def test_a_language_model_is_judged_by_split_val_where_no_share_is_held_out(tmp_path: Path) -> None:
    task, context = mllm_task(tmp_path, write_inputs(tmp_path, num_val=16))
    data = replace(MLLM.data, parts=MLLM.data.parts[:1])  # the second dataset shows the same images
    task = replace(task, config=replace(MLLM, data=data), index=tmp_path / "index of one part")
    build_index(task)
    split = validation_samples(sample_data(task), task.index, context)
    assert split is not None
    assert split.parts == (0,)
    program = MllmProgram(replace(task, validation=split), CPU)
    assert program.validation is not None
    batches = [program.validation.micro_batch(at) for at in range(program.validation.num_micro_batches)]
    judged = {sample.split()[0] for batch in batches for sample in batch.samples}
    val = {hashlib.sha256(f"one/{number}".encode()).hexdigest() for number in range(16)}
    assert len(judged) > 8
    assert judged <= val
    assert training_order(task).steps_that_saw(sorted(judged), before_step=50) == [[] for _ in judged]
    assert context.tracker.events == []


def test_validation_samples_that_another_dataset_trains_on_are_refused_by_name(tmp_path: Path) -> None:
    """The second dataset holds samples of the first, which are of split val there."""
    inputs = write_inputs(tmp_path, names=("one", "one"), num_val=16)
    context = mllm_context(tmp_path / "context", inputs)
    with pytest.raises(LoadingError, match=r"\d+ of \d+ validation samples are trained on: [0-9a-f]{64} \(part 1\)"):
        TRAIN_MLLM.run(MLLM, context)
    assert context.checkpoints.latest() is None


def test_images_of_held_out_samples_that_are_trained_on_are_named(tmp_path: Path) -> None:
    """A share holds out samples by their first image; those of other samples show the same one second."""
    inputs = write_inputs(tmp_path)
    dataset = inputs["datasets"][0]
    show_second(dataset, "one-00000", of="one-00001")
    task, context = mllm_task(tmp_path, inputs, held_out_share=0.3)
    assert validation_samples(sample_data(task), task.index, context) is None
    ((kind, fields),) = context.tracker.events
    assert kind == VALIDATION_OVERLAP
    assert f"same image in {hashlib.sha256(b'one/3').hexdigest()[:16]}" in str(fields["message"])


def show_second(dataset: Path, shard: str, *, of: str) -> None:
    """The editing samples of a shard, which begin with an image that is not held out, show all images of another."""
    path = dataset / "ledger" / f"{shard}.parquet"
    table = pq.read_table(path)
    more = [
        image for images in pq.read_table(path.with_name(f"{of}.parquet"))["images"].to_pylist() for image in images
    ]
    images = [
        [*found, *more] if task == "editing" else found
        for found, task in zip(table["images"].to_pylist(), table["task"].to_pylist(), strict=True)
    ]
    at = table.schema.get_field_index("images")
    pq.write_table(table.set_column(at, "images", pa.array(images, pa.list_(pa.string()))), path)


def test_a_language_model_without_held_out_samples_is_refused(tmp_path: Path) -> None:
    context = mllm_context(tmp_path / "context", write_inputs(tmp_path))
    with pytest.raises(PrecheckError, match=r"no sample is held out .*data.held_out_share: 0\).*none of split 'val'"):
        TRAIN_MLLM.run(MLLM, context)
