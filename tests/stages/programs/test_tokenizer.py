"""The tokenizer's training passes: which parameters each trains, and when the discriminator joins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.dualvitok import weights
from models.dualvitok.config import DiscriminatorConfig, LossConfig
from models.dualvitok.vision_tower import VisionTower
from models.strict_weights import WeightsError
from orchestrator.errors import PrecheckError
from orchestrator.stage import Location, Resources
from orchestrator.testing import folder_context, run_stage
from stages.programs.image_data import make_index
from stages.programs.tokenizer import TokenizerProgram, build_tokenizer, check_config
from stages.programs.tokenizer_config import TOKENIZER_IMAGES, TokenizerTask, TrainTokenizerConfig
from stages.train_tokenizer import TRAIN_TOKENIZER
from stages.training.checkpoints import reader
from stages.training.config import LoopConfig, RecomputingExecution, TrainingExecution
from stages.training.strategies.choice import make_strategy
from tests.data_pipelines.conftest import Wanted, write_dataset
from tests.data_pipelines.tiny_run import TOKENIZER
from tests.stages.training.test_loop import single_worker

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
    weights.save(build_tokenizer(task), tmp_path)
    other = replace(CONFIG, model=replace(TOKENIZER, noise=replace(TOKENIZER.noise, kind="zero")))
    with pytest.raises(PrecheckError, match=r"config\.model differs from the tokenizer to continue from"):
        build_tokenizer(replace(task, config=other, start=tmp_path))
    check_config(CONFIG)


def test_norms_start_plain_where_the_config_says_so_and_training_is_new(tmp_path: Path, task: TokenizerTask) -> None:
    plain = replace(task, config=replace(CONFIG, plain_norms_at_start=True))
    name = "pixel_decoder.norm_out.conv_y.bias"
    assert not torch.all(build_tokenizer(task).get_parameter(name) == 1)
    model = build_tokenizer(plain)
    assert torch.all(model.get_parameter(name) == 1)
    torch.nn.init.constant_(model.get_parameter(name), 2.0)
    weights.save(model, tmp_path)
    assert torch.all(build_tokenizer(replace(plain, start=tmp_path)).get_parameter(name) == 2)


@pytest.fixture
def continued(task: TokenizerTask, tmp_path: Path) -> TokenizerTask:
    """A training that goes on from a tokenizer, with another vision tower."""
    torch.manual_seed(5)
    for folder in ("start", "vision"):
        (tmp_path / folder).mkdir()
    weights.save(build_tokenizer(task), tmp_path / "start")
    weights.save_vision(VisionTower(TOKENIZER.vision), tmp_path / "vision")
    return replace(task, start=tmp_path / "start", vision=tmp_path / "vision")


def test_a_tokenizer_to_continue_from_is_filled_from_its_files_and_those_of_the_tower(continued: TokenizerTask) -> None:
    program = TokenizerProgram(continued, CPU)
    model = program.passes[0].module
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert not any(tensor.is_meta for tensor in program.weights["discriminator"].state_dict().values())
    make_strategy(program, CONFIG.loop, TrainingExecution(), single_worker())
    expected = build_tokenizer(continued)
    found = program.weights["tokenizer"].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    trained = {name for name, parameter in expected.named_parameters() if parameter.requires_grad}
    assert {name for name, value in program.weights["tokenizer"].named_parameters() if value.requires_grad} == trained


@pytest.mark.parametrize("part", ["start", "vision"])
def test_files_of_other_tensors_are_refused_by_their_headers(
    part: str, continued: TokenizerTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / part / weights.WEIGHTS_FILE
    tensors = load_file(path)
    save_file({name: value[:-1] if "patch_embed" in name else value for name, value in tensors.items()}, path)

    def no_byte_is_read(*_arguments: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reader, "safe_open", no_byte_is_read)
    with pytest.raises(WeightsError, match=rf"{part}/model.safetensors: does not fit .*\n.*wrong shape: 1"):
        TokenizerProgram(continued, CPU)


def test_sharded_workers_go_on_from_a_tokenizer_as_one_does(continued: TokenizerTask, tmp_path: Path) -> None:
    assert continued.start is not None
    inputs = {"datasets": continued.datasets[0], "start": continued.start}
    config = replace(CONFIG, loop=replace(CONFIG.loop, micro_batches_per_step=2))
    models = []
    for workers, execution in ((1, RecomputingExecution()), (2, RecomputingExecution(strategy="fsdp2"))):
        context = folder_context(
            TRAIN_TOKENIZER,
            tmp_path / str(workers),
            inputs=inputs,
            resources=Resources(workers=workers),
            execution=execution,
        )
        run_stage(TRAIN_TOKENIZER, config, context)
        models.append(load_file(context.output / weights.WEIGHTS_FILE))
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-3, atol=1e-4)
    begun = load_file(continued.start / weights.WEIGHTS_FILE)
    assert not torch.equal(begun["pixel_encoder.conv_in.weight"], models[0]["pixel_encoder.conv_in.weight"])
