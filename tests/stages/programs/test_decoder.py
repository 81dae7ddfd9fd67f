"""The decoder's training data: images and their codes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipelines.tokens.token_shards import TokenizerIdentity, TokenShard
from models.diffusion import weights
from models.diffusion.config import DecoderConfig
from models.diffusion.unet import predict
from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.model import DualViTok
from models.strict_weights import WeightsError
from stages.programs.decoder import DecoderProgram, build_decoder
from stages.programs.decoder_config import DECODER_IMAGES, DecoderTask, TrainDecoderConfig
from stages.programs.image_data import make_index
from stages.training.checkpoints import reader
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.strategies.choice import make_strategy
from tests.data_pipelines.conftest import Wanted, write_dataset, write_tokens
from tests.data_pipelines.tiny_run import DECODER, TOKENIZER
from tests.stages.training.test_loop import single_worker

SAMPLES = [
    Wanted(task="generation", turns=(f"Generate {{resolution_tag}} {n}\n", "<image>"), anchors=((32, 32),))
    for n in range(4)
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer_weights.save(DualViTok(TOKENIZER), folder)
    return folder


def decoder_task(tmp_path: Path, tokenizer: Path, without: int) -> tuple[DecoderTask, list[str]]:
    folder = tmp_path / "dataset"
    ids = write_dataset(folder, SAMPLES, name="one", per_shard=2)
    identity = TokenizerIdentity(sha256="a" * 64, semantic_codes=16, pixel_codes=32, pixel_factor=8)
    write_tokens(tmp_path / "tokens", folder, SAMPLES, ids, tokenizer=identity, without=ids[4 - without :], per_shard=2)
    config = TrainDecoderConfig(
        model=DECODER, batch=2, learning_rate=1e-3, loop=LoopConfig(steps=2, micro_batches_per_step=1, seed=1)
    )
    make_index(tmp_path / "index", [folder], DECODER_IMAGES, [tmp_path / "tokens"])
    task = DecoderTask(
        config=config,
        datasets=(folder,),
        tokens=(tmp_path / "tokens",),
        tokenizer=tokenizer,
        start=None,
        index=tmp_path / "index",
    )
    return task, ids


def test_the_decoder_learns_each_image_with_its_own_codes(tmp_path: Path, tokenizer: Path) -> None:
    task, ids = decoder_task(tmp_path, tokenizer, without=0)
    micro_batch = DecoderProgram(task, torch.device("cpu")).micro_batch(0, 0)
    images_BCYX, codes = micro_batch.data
    assert images_BCYX.shape == (2, 3, 64, 64)
    known = {
        tuple(pixel.flatten().tolist())
        for number in range(2)
        for shard in [TokenShard(tmp_path / "tokens" / "tokens" / f"one-0000{number}.parquet")]
        for sample_id in ids[2 * number : 2 * number + 2]
        for _, pixel in [shard.codes(sample_id, 0)]
    }
    assert {tuple(pixel_YX.flatten().tolist()) for pixel_YX in codes.pixel_BYX} <= known


def test_the_share_at_the_last_noise_level_reaches_the_loss(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = decoder_task(tmp_path, tokenizer, without=0)
    task = replace(task, config=replace(task.config, last_level_share=1.0))
    program = DecoderProgram(task, torch.device("cpu"))
    seen: list[torch.Tensor] = []

    def predict(unet: object, inputs_BCYX: torch.Tensor, steps_B: torch.Tensor, resolution: int) -> torch.Tensor:
        seen.append(steps_B)
        return inputs_BCYX[:, : task.config.model.sample_channels]

    monkeypatch.setattr("models.diffusion.decoder.predict", predict)
    program.passes[0].module(program.micro_batch(0, 0).data, torch.Generator().manual_seed(0), 0)
    assert [steps.tolist() for steps in seen] == [[999, 999]]


def test_the_decoder_skips_images_that_could_not_be_tokenized(tmp_path: Path, tokenizer: Path) -> None:
    task, _ = decoder_task(tmp_path, tokenizer, without=1)
    program = DecoderProgram(task, torch.device("cpu"))
    for step in range(6):
        assert program.micro_batch(step, 0).weight == 2


def test_the_pixels_of_a_cell_begin_equal_where_the_config_says_so(tmp_path: Path, tokenizer: Path) -> None:
    task, _ = decoder_task(tmp_path, tokenizer, without=0)
    even = replace(task, config=replace(task.config, even_cells_at_start=True))
    cell = task.config.model.cell_px
    inputs = torch.randn(1, task.config.model.sample_channels + task.config.model.code_channels, 64 // cell, 64 // cell)
    with torch.no_grad():
        folded = predict(build_decoder(even).unet, inputs, torch.tensor([999]), 0)
        uneven = predict(build_decoder(task).unet, inputs, torch.tensor([999]), 0)
    images = torch.nn.functional.pixel_shuffle(folded, cell)
    blocks = torch.nn.functional.interpolate(images[:, :, ::cell, ::cell], scale_factor=cell)
    torch.testing.assert_close(images, blocks)
    assert len(set(images[0, :, 0, 0].tolist())) == 3  # colours still differ
    assert not torch.equal(folded, uneven)


def test_a_decoder_to_continue_from_is_filled_from_its_files(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = decoder_task(tmp_path, tokenizer, without=0)
    weights.save(build_decoder(task), tmp_path / "start")
    continued = replace(task, start=tmp_path / "start")
    program = DecoderProgram(continued, torch.device("cpu"))
    assert all(tensor.is_meta for tensor in program.weights["unet"].state_dict().values())
    make_strategy(program, task.config.loop, TrainingExecution(), single_worker())
    found = program.weights["unet"].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in build_decoder(continued).unet.state_dict().items())

    [path] = weights.part_files(tmp_path / "start/unet")
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if "conv_in" not in name}, path)

    def no_byte_is_read(*_arguments: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reader, "safe_open", no_byte_is_read)
    with pytest.raises(WeightsError, match=r"start/unet: does not fit .*\n.*missing: 2"):
        DecoderProgram(continued, torch.device("cpu"))


def test_cells_begin_equal_in_pixel_space_only() -> None:
    loop = LoopConfig(steps=2, micro_batches_per_step=1, seed=1)
    with pytest.raises(ValueError, match="even_cells_at_start: true, but only a new network in pixel space"):
        TrainDecoderConfig(
            model=DecoderConfig.published(),
            batch=2,
            learning_rate=1e-3,
            loop=loop,
            base_model_id="base@1",
            even_cells_at_start=True,
        )
