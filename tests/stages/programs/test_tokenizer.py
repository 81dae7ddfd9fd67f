"""The tokenizer's training passes: which parameters each trains, and when the discriminator joins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.dualvitok.config import DiscriminatorConfig, LossConfig
from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from stages.programs.image_data import make_index
from stages.programs.tokenizer import TokenizerProgram, build_tokenizer, check_config
from stages.programs.tokenizer_config import TOKENIZER_IMAGES, TokenizerTask, TrainTokenizerConfig
from stages.training.config import LoopConfig
from tests.data_pipelines.conftest import Wanted, write_dataset
from tests.data_pipelines.tiny_run import TOKENIZER

SAMPLES = [Wanted(task="understanding", turns=("<image>\nWhat?", "x"), anchors=((64, 64),)) for _ in range(4)]
CONFIG = TrainTokenizerConfig(
    model=TOKENIZER,
    loss=LossConfig(perceptual="none", adversarial_start_step=2),
    batch=2,
    learning_rate=1e-3,
    loop=LoopConfig(steps=4, micro_batches_per_step=1, seed=1),
    discriminator=DiscriminatorConfig(channels=4, layers=1),
)
CPU = torch.device("cpu")


@pytest.fixture
def task(tmp_path: Path) -> TokenizerTask:
    write_dataset(tmp_path / "dataset", SAMPLES)
    index = tmp_path / "index"
    make_index(index, [tmp_path / "dataset"], TOKENIZER_IMAGES)
    return TokenizerTask(config=CONFIG, datasets=(tmp_path / "dataset",), vision=None, start=None, index=index)


def test_the_discriminator_pass_begins_with_its_start_step(task: TokenizerTask) -> None:
    program = TokenizerProgram(task, CPU)
    assert [(training_pass.name, training_pass.first_step) for training_pass in program.passes] == [
        ("generator", 0),
        ("discriminator", 1),
    ]
    assert set(program.weights) == {"tokenizer", "discriminator"}


@pytest.mark.parametrize("change", [{"adversarial_weight": 0.0}, {"adversarial_start_step": 5}])
def test_a_training_without_adversarial_steps_has_no_discriminator(
    task: TokenizerTask, change: dict[str, float]
) -> None:
    config = replace(CONFIG, loss=replace(CONFIG.loss, **change))  # type: ignore[arg-type]  # by name
    program = TokenizerProgram(replace(task, config=config), CPU)
    assert [training_pass.name for training_pass in program.passes] == ["generator"]
    assert set(program.weights) == {"tokenizer"}


def test_each_pass_has_gradients_for_its_own_parameters_only(task: TokenizerTask) -> None:
    program = TokenizerProgram(task, CPU)
    micro_batch = program.micro_batch(1, 0)
    generator_pass, discriminator_pass = program.passes
    generator = torch.Generator().manual_seed(micro_batch.seed)
    generator_pass.module(micro_batch.data, generator, 1).loss_sum.backward()
    assert all(parameter.grad is None for parameter in discriminator_pass.module.parameters())
    before = [parameter.grad for parameter in generator_pass.module.parameters() if parameter.grad is not None]
    assert before
    copies = [gradient.clone() for gradient in before]
    discriminator_pass.module(micro_batch.data, generator, 1).loss_sum.backward()
    assert all(parameter.grad is not None for parameter in discriminator_pass.module.parameters())
    assert all(torch.equal(gradient, copy) for gradient, copy in zip(before, copies, strict=True))


def test_lpips_weights_are_checked_against_their_digests(tmp_path: Path, task: TokenizerTask) -> None:
    (tmp_path / "lpips.pth").write_bytes(b"weights")
    config = replace(
        CONFIG,
        loss=replace(CONFIG.loss, perceptual="lpips"),
        lpips_sha256=("a" * 64,),
        lpips_weights=(Location(str(tmp_path / "lpips.pth")),),
    )
    with pytest.raises(PrecheckError, match="the LPIPS weights have SHA-256"):
        TokenizerProgram(replace(task, config=config), CPU)
    absent = replace(config, lpips_weights=(Location(str(tmp_path / "absent.pth")),))
    with pytest.raises(PrecheckError, match=r"no file .*absent\.pth; give the LPIPS weights"):
        TokenizerProgram(replace(task, config=absent), CPU)


def test_a_tokenizer_of_other_sizes_is_not_continued(tmp_path: Path, task: TokenizerTask) -> None:
    from models.dualvitok import weights

    weights.save(build_tokenizer(task), tmp_path)
    other = replace(CONFIG, model=replace(TOKENIZER, noise=replace(TOKENIZER.noise, kind="zero")))
    with pytest.raises(PrecheckError, match=r"config\.model differs from the tokenizer to continue from"):
        build_tokenizer(replace(task, config=other, start=tmp_path))
    check_config(CONFIG)


def test_norms_start_plain_where_the_config_says_so_and_training_is_new(tmp_path: Path, task: TokenizerTask) -> None:
    from models.dualvitok import weights

    plain = replace(task, config=replace(CONFIG, plain_norms_at_start=True))
    name = "pixel_decoder.norm_out.conv_y.bias"
    assert not torch.all(build_tokenizer(task).get_parameter(name) == 1)
    model = build_tokenizer(plain)
    assert torch.all(model.get_parameter(name) == 1)
    torch.nn.init.constant_(model.get_parameter(name), 2.0)
    weights.save(model, tmp_path)
    assert torch.all(build_tokenizer(replace(plain, start=tmp_path)).get_parameter(name) == 2)
