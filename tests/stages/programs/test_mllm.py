"""The language model's training data: how many rows a step has, and what its micro-batches name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_pipelines.training_data.config import LoaderConfig, MixturePart
from orchestrator.errors import PrecheckError
from orchestrator.stage import Resources
from orchestrator.testing import folder_context, run_stage
from stages.programs.mllm import MllmProgram, build_index, build_mllm, data_facts, training_order
from stages.programs.mllm_config import LearningRates, MllmExecution, MllmTask, TrainMllmConfig
from stages.train_mllm import TRAIN_MLLM
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
    """The whole stage: its checkpoints hold only what trains, and its result is a whole model."""
    inputs = stage_inputs(task)
    models, saved = [], []
    for workers, execution in ((1, MllmExecution()), (2, MllmExecution(strategy="fsdp2"))):
        folder = tmp_path / str(workers)
        resources = Resources(workers=workers)
        context = folder_context(TRAIN_MLLM, folder, inputs=inputs, resources=resources, execution=execution)
        run_stage(TRAIN_MLLM, CONFIG, context)
        models.append(load_file(context.output / "model.safetensors"))
        saved.append(sum(path.stat().st_size for path in folder.rglob("worker-*.safetensors")))
    assert models[0].keys() == models[1].keys()
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-4, atol=1e-6)
    trained = [name for name in models[0] if name.startswith("projector.") or name == "embedding.vision"]
    states = 3 * 4 * sum(models[0][name].numel() for name in trained)  # weights and both moments of Adam
    assert all(states < size < states + 20_000 for size in saved)


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


def test_a_validation_without_held_out_samples_is_refused(task: MllmTask, tmp_path: Path) -> None:
    execution = MllmExecution(watch=WatchSettings(validate_every=2))
    context = folder_context(TRAIN_MLLM, tmp_path, inputs=stage_inputs(task), execution=execution)
    with pytest.raises(PrecheckError, match=r"validate_every: no sample is held out .*data\.held_out_share: 0\)"):
        run_stage(TRAIN_MLLM, CONFIG, context)
