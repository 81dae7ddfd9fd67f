"""The language model's training data: how many rows a step has, and what its micro-batches name."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipelines.training_data.config import LoaderConfig, MixturePart
from models.mllm.weights import save
from models.strict_weights import WeightsError
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.errors import PrecheckError
from orchestrator.stage import Resources, RetryPolicy
from orchestrator.testing import folder_context, run_stage
from stages.programs.mllm import MllmProgram, build_index, build_mllm, data_facts, training_order
from stages.programs.mllm_config import LearningRates, MllmExecution, MllmTask, TrainMllmConfig
from stages.train_mllm import TRAIN_MLLM
from stages.training.checkpoints import reader
from stages.training.config import LoopConfig, WatchSettings
from tests.data_pipelines.tiny_run import TEXT, write_run

CONFIG = TrainMllmConfig(
    phase="stage1",
    learning_rates=LearningRates(adapter=1e-3, image_tokens=1e-3),
    data=LoaderConfig(
        parts=(MixturePart(tasks=("text", "understanding"), weight=1.0),), seed=1, row_tokens=256, samples_per_step=9
    ),
    loop=LoopConfig(steps=4, micro_batches_per_step=2, seed=1),
    text=TEXT,
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> MllmTask:
    run = write_run(tmp_path_factory.mktemp("run"))
    task = MllmTask(
        config=CONFIG,
        datasets=(run.dataset,),
        tokens=(run.dataset,),  # nothing of this mixture has codes
        tokenizer=run.tokenizer,
        vocabulary=run.vocabulary,
        start=None,
        index=tmp_path_factory.mktemp("index"),
    )
    build_index(task)
    return task


def test_a_step_of_samples_is_divided_among_its_micro_batches(task: MllmTask) -> None:
    order = training_order(task)
    program = MllmProgram(task, torch.device("cpu"))
    batches = [program.micro_batch(step, index) for step in range(3) for index in range(2)]
    rows = [len(batch.data.ids_BT) for batch in batches]
    assert sum(rows) == 3 * order.rows_per_step
    assert max(rows) - min(rows) <= 1
    expected = [sample.sample_id for row in range(sum(rows)) for sample in order.samples_of(row)]
    assert [name.split()[0] for batch in batches for name in batch.samples] == expected
    assert any("(images " in name for batch in batches for name in batch.samples)


def test_facts_of_the_data_are_rows_padding_and_epochs(task: MllmTask) -> None:
    facts = data_facts(training_order(task), CONFIG)
    assert facts["rows_per_step"] >= 2
    assert 0.3 < facts["used_token_share"] <= 1
    assert facts["epochs/0 text+understanding"] > 0


def test_two_sharded_workers_make_the_model_of_one(task: MllmTask, tmp_path: Path) -> None:
    """The whole stage: its checkpoints hold only what trains, and its result is a whole model.

    So do two that share each row, and both say of the training and its validation what one says.
    """
    inputs = stage_inputs(task)
    config = replace(CONFIG, data=replace(CONFIG.data, held_out_share=0.3))
    models, saved, said = [], [], list[dict[str, float]]()
    for name, workers, sequence_workers in (("one", 1, 1), ("two", 2, 1), ("shared", 2, 2)):
        folder = tmp_path / name
        watch = WatchSettings(validate_every=2)
        execution = MllmExecution(strategy="fsdp2", watch=watch, sequence_workers=sequence_workers)
        resources = Resources(workers=workers)
        context = folder_context(TRAIN_MLLM, folder, inputs=inputs, resources=resources, execution=execution)
        run_stage(TRAIN_MLLM, config, context)
        said.append(
            {
                f"{step} {name}": value
                for step, values in context.tracker.metrics
                for name, value in values.items()
                if name == "padding_share" or "language/" in name
            }
        )
        models.append(load_file(context.output / "model.safetensors"))
        saved.append(sum(path.stat().st_size for path in folder.rglob("worker-*.safetensors")))
    assert "4 validation/language/loss_of/0 text+understanding" in said[0]
    assert said[1:] == [pytest.approx(said[0], rel=1e-4)] * 2
    for other in models[1:]:
        assert models[0].keys() == other.keys()
        for name, tensor in models[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)
    trained = [name for name in models[0] if name.startswith("projector.") or name == "embedding.vision"]
    states = 3 * 4 * sum(models[0][name].numel() for name in trained)  # weights and both moments of Adam
    assert all(states < size < states + 20_000 for size in saved)


def test_rows_that_workers_cannot_share_are_refused_before_the_data_are_read(task: MllmTask, tmp_path: Path) -> None:
    execution, resources = MllmExecution(sequence_workers=4), Resources(workers=4)
    context = folder_context(TRAIN_MLLM, tmp_path, inputs=stage_inputs(task), resources=resources, execution=execution)
    with pytest.raises(PrecheckError, match=r"4 does not divide the 2 attention heads; set it to 2"):
        run_stage(TRAIN_MLLM, CONFIG, context)
    assert not (context.scratch / "index").exists()
    with pytest.raises(ValueError, match=r"sequence_workers: 2 with watch\.validate_beside, which has one; set"):
        MllmExecution(sequence_workers=2, watch=WatchSettings(validate_every=2, validate_beside=True))


@pytest.fixture(scope="module")
def continued(task: MllmTask, tmp_path_factory: pytest.TempPathFactory) -> MllmTask:
    """A training of stage 2 that goes on from a model."""
    start = tmp_path_factory.mktemp("start")
    save(build_mllm(task), start)
    rates = LearningRates(adapter=1e-3, language=1e-3)
    return replace(task, config=replace(CONFIG, phase="stage2", learning_rates=rates, text=None), start=start)


def test_sharded_workers_go_on_from_a_model_as_one_does(continued: MllmTask, tmp_path: Path) -> None:
    assert continued.start is not None
    inputs = {**stage_inputs(continued), "start": continued.start}
    models = []
    for workers, execution in ((1, MllmExecution()), (2, MllmExecution(strategy="fsdp2"))):
        folder = tmp_path / str(workers)
        resources = Resources(workers=workers)
        context = folder_context(TRAIN_MLLM, folder, inputs=inputs, resources=resources, execution=execution)
        run_stage(TRAIN_MLLM, continued.config, context)
        models.append(load_file(context.output / "model.safetensors"))
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-4, atol=1e-5)
    begun = load_file(continued.start / "model.safetensors")
    assert {name for name in begun if not torch.equal(begun[name], models[0][name])} >= {"embedding.text"}


def test_a_model_of_other_tensors_is_refused_by_its_header(
    continued: MllmTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert continued.start is not None
    copytree(continued.start, tmp_path / "start")
    tensors = load_file(continued.start / "model.safetensors")
    missing = tensors.pop("projector.pixel.0.weight")
    save_file(tensors | {"embedding.text": missing}, tmp_path / "start/model.safetensors")

    def no_byte_is_read(*_arguments: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reader, "safe_open", no_byte_is_read)
    wrong = replace(continued, start=tmp_path / "start")
    with pytest.raises(
        WeightsError, match=r"missing: 1\n.*projector.pixel.0.weight\n.*wrong shape: 1\n.*embedding.text"
    ):
        MllmProgram(wrong, torch.device("cpu"))
    (tmp_path / "start/model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model.safetensors: not a safetensors file .* of a finished training"):
        MllmProgram(wrong, torch.device("cpu"))


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_train_a_sharded_training_is_continued_by_one_that_is_not(task: MllmTask, tmp_path: Path) -> None:
    """FSDP2 on two workers up to step 2, DDP on one worker to the end: the losses and the model of one worker."""
    chain = {
        "whole": (1, MllmExecution(), 0),
        "fsdp2": (2, MllmExecution(strategy="fsdp2", keep_checkpoints=9), 0),
        "ddp": (1, MllmExecution(), 2),
    }
    losses: list[list[float]] = []
    with closing(Cluster(LocalRay(cpus=2))) as cluster:
        for name, (workers, execution, first_step) in chain.items():
            context = folder_context(
                TRAIN_MLLM,
                tmp_path / name,
                inputs=stage_inputs(task),
                resources=Resources(workers=workers),
                retry=RetryPolicy(checkpoint_every=1),
                execution=execution,
            )
            for step in range(1, first_step + 1):
                folder = f"checkpoints/{step:012d}"
                copytree(tmp_path / "fsdp2" / folder, tmp_path / name / folder)
            context.cluster, context.plain_training_workers = cluster, name == "whole"
            run_stage(TRAIN_MLLM, CONFIG, context)
            steps = [
                (step, found["language/loss"]) for step, found in context.tracker.metrics if "language/loss" in found
            ]
            assert [step for step, _ in steps] == list(range(first_step + 1, CONFIG.loop.steps + 1))
            losses.append([loss for _, loss in steps])
    whole, sharded, continued = losses
    assert sharded == pytest.approx(whole, rel=1e-5)
    assert continued == pytest.approx(whole[2:], rel=1e-5)
    models = [load_file(tmp_path / name / "output/model.safetensors") for name in chain]
    for name, tensor in models[0].items():
        for model in models[1:]:
            torch.testing.assert_close(model[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_new_model_begins_as_configured_and_each_time_the_same(task: MllmTask) -> None:
    plain = build_mllm(task).state_dict()
    config = replace(CONFIG, image_rows="codebook", scaled_residuals=True)
    changed = build_mllm(replace(task, config=config)).state_dict()
    again = build_mllm(replace(task, config=config)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in changed.items())
    found = {name for name, tensor in plain.items() if not torch.equal(changed[name], tensor)}
    added = {name for name in plain if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight"))}
    assert found == added | {name for name in plain if name in ("embedding.vision", "head.vision")}
    for name in added:
        torch.testing.assert_close(changed[name], plain[name] / (2 * TEXT.num_layers) ** 0.5)


def test_layers_of_a_base_model_are_not_scaled() -> None:
    with pytest.raises(ValueError, match="scaled_residuals: true with base_model_id"):
        replace(CONFIG, scaled_residuals=True, base_model_id="qwen2")


def test_fewer_rows_than_micro_batches_are_refused_with_what_would_work(task: MllmTask) -> None:
    many = replace(CONFIG, loop=replace(CONFIG.loop, micro_batches_per_step=64))
    with pytest.raises(PrecheckError, match=r"9 samples fill \d+ rows of 256 tokens, too few .* at most \d+, "):
        data_facts(training_order(task), many)


def stage_inputs(task: MllmTask) -> dict[str, Path]:
    return {
        "datasets": task.datasets[0],
        "tokens": task.tokens[0],
        "tokenizer": task.tokenizer,
        "vocabulary": task.vocabulary,
    }


def test_a_training_is_validated_on_what_it_does_not_train_on(task: MllmTask, tmp_path: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, held_out_share=0.3))
    execution = MllmExecution(watch=WatchSettings(validate_every=2, keep_best="language/loss"))
    context = folder_context(TRAIN_MLLM, tmp_path, inputs=stage_inputs(task), execution=execution)
    metrics = run_stage(TRAIN_MLLM, config, context)
    assert metrics["held_out"] > 0

    held_out = replace(task, config=config, index=tmp_path / "index")
    build_index(held_out)
    program = MllmProgram(held_out, torch.device("cpu"))
    assert program.validation is not None
    batches = [program.validation.micro_batch(index) for index in range(program.validation.num_micro_batches)]
    judged = {name.split()[0] for batch in batches for name in batch.samples}
    trained = {
        name.split()[0] for step in range(4) for index in range(2) for name in program.micro_batch(step, index).samples
    }
    assert judged
    assert not judged & trained
    tracked = [step for step, values in context.tracker.metrics if "validation/language/loss" in values]
    assert tracked == [2, 4]
