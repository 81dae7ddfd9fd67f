"""Trains the unified language model: one kind, used once for each of the progressive stages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.cost import ConfigTree, CostFacts
from orchestrator.learning import Exposures, Learned, Samples, Training
from orchestrator.stage import Preparation, Resources, Slot, StageContext, StageKind
from stages.index_samples import INDEX_SAMPLES, INDEX_SLOT
from stages.node_data import DATASETS, TOKENS, open_inputs
from stages.programs.index_config import IndexSamplesExecution, samples_index_config
from stages.programs.index_use import INDEX, check_index_config, given_index
from stages.programs.mllm_config import MllmExecution, MllmTask, TrainMllmConfig
from stages.training.config import split_micro_batches
from stages.training.metrics import LOOP_METRICS, amount_text, pass_metrics
from stages.training.precheck import precheck_execution


def index_execution(execution: MllmExecution) -> IndexSamplesExecution:
    return IndexSamplesExecution(max_dropped_share=execution.max_dropped_share, too_long=execution.too_long)


def needs(config: TrainMllmConfig) -> Mapping[str, str]:
    return {"base_model": config.base_model} if config.base_model_id else {}


def precheck(config: TrainMllmConfig, inputs: Mapping[str, Any]) -> None:
    from stages.programs.mllm import check_config

    check_config(config, inputs)
    check_index_config("train_mllm", inputs, samples_index_config(config.data))


def precheck_rows_and_layout(config: TrainMllmConfig, execution: MllmExecution, resources: Resources) -> None:
    """Raises: PrecheckError: see `check_layout` and `check_sequence_workers`; heads of another model are not known."""
    from stages.training.strategies.mesh import check_sequence_workers

    precheck_execution(config, execution, resources)
    check_sequence_workers(
        execution.sequence_workers,
        workers=(resources.workers, resources.min_workers or resources.workers),
        num_heads=config.text.num_heads if config.text else 0,
        row_tokens=config.data.row_tokens,
    )


def run(config: TrainMllmConfig, context: StageContext) -> Mapping[str, float]:
    from stages.programs.mllm import (
        MllmProgram,
        build_index,
        check_sequence,
        data_facts,
        export_mllm,
        sample_data,
        training_order,
        use_index,
    )
    from stages.programs.validation import validation_samples
    from stages.training.driver import train

    open_inputs(context.node_inputs)
    index = given_index(context, ("datasets", "tokens", "tokenizer", "vocabulary"))
    start, execution = context.inputs("start"), context.execution(MllmExecution)
    task = MllmTask(
        config=config,
        datasets=tuple(artifact.path for artifact in context.inputs("datasets")),
        tokens=tuple(artifact.path for artifact in context.inputs("tokens")),
        tokenizer=context.input("tokenizer").path,
        vocabulary=context.input("vocabulary").path,
        start=start[0].path if start else None,
        index=index or context.scratch / INDEX,
        guards=execution,
        execution=execution,
    )
    check_sequence(task, [context.resources.workers, context.resources.min_workers or context.resources.workers])
    dropped = build_index(task) if index is None else use_index(task)
    task = replace(task, validation=validation_samples(sample_data(task), task.index, context))
    facts = data_facts(order := training_order(task), config)
    rows = order.rows_per_step // config.loop.micro_batches_per_step
    loop, _ = split_micro_batches(config.loop, rows, context.memory_halvings)
    task = replace(task, config=replace(config, loop=loop))
    result = train(MllmProgram, task, loop, context)
    export_mllm(task, result.checkpoint.path, context.output)
    return {**result.metrics, **dropped, **facts}


METRICS = {
    **pass_metrics(
        "language",
        {
            **{f"{name}_loss": f"cross-entropy of {name} tokens, nats" for name in ("text", "semantic", "pixel")},
            "loss_of/<part>": "cross-entropy of the samples of a part of the mixture, nats",
        },
    ),
    "dropped/<reason>": "samples that are not trained on, by reason",
    "held_out": "samples that are never trained on, by data.held_out_share",
    "epochs/<part>": "how often the samples of a part of the mixture are seen in all steps",
    "rows_per_step": "packed rows of one optimizer step",
    "used_token_share": "share of the rows' tokens that is no padding",
    **LOOP_METRICS,
}


def headline(metrics: Mapping[str, float]) -> str:
    parts = [
        f"{name} {metrics[key]:.4g}"
        for name in ("text", "semantic", "pixel")
        if (key := f"language/{name}_loss") in metrics
    ]
    return f"loss {metrics['language/loss']:.4g}" + (f": {', '.join(parts)}" if parts else "")


def amount(config: TrainMllmConfig) -> str:
    data, steps = config.data, config.loop.steps
    if data.samples_per_step:
        return f"{amount_text(steps, data.samples_per_step, 'samples')}, in rows of {data.row_tokens:,} tokens"
    return amount_text(steps, data.rows_per_step * data.row_tokens, "tokens, padding included")


def exposures(training: Training[TrainMllmConfig], samples: Samples) -> Exposures:
    import numpy as np

    from stages.programs.mllm import build_index, training_order
    from stages.training.exposures import Integers, loop_exposures

    def data_steps(ids: Sequence[str], before: int) -> tuple[Integers, Integers]:
        task = MllmTask(
            config=training.config,
            datasets=training.inputs("datasets"),
            tokens=training.inputs("tokens"),
            tokenizer=training.inputs("tokenizer")[0],
            vocabulary=training.inputs("vocabulary")[0],
            start=None,
            index=Path(),
        )
        index = training.index(lambda folder: build_index(replace(task, index=folder)))
        wanted = np.frombuffer(bytes.fromhex("".join(ids)), dtype=np.uint8).reshape(-1, 32)
        return training_order(replace(task, index=index)).exposures(wanted, before_step=before)

    return loop_exposures(training, training.config.loop, samples, data_steps)


def cost(tree: ConfigTree, execution: MllmExecution) -> CostFacts:
    from stages.programs.mllm_cost import mllm_cost

    return mllm_cost(tree, execution)


TRAIN_MLLM = StageKind(
    name="train_mllm",
    version=2,
    config=TrainMllmConfig,
    execution=MllmExecution,
    run=run,
    inputs={
        "datasets": DATASETS,
        "tokens": TOKENS,
        "tokenizer": Slot(kind="tokenizer@1"),
        "vocabulary": Slot(kind="vocabulary@1"),
        "start": Slot(kind="mllm@1", required=False),
        "index": INDEX_SLOT,
    },
    preparations={
        "index": Preparation(
            kind=INDEX_SAMPLES,
            config=lambda config: samples_index_config(config.data),
            inputs=("datasets", "tokens", "tokenizer", "vocabulary"),
            execution=index_execution,
        )
    },
    output="mllm@1",
    learned=Learned(exposures=exposures),
    renamed_metrics={"left_out/": "dropped/"},
    needs=needs,
    precheck=precheck,
    precheck_execution=precheck_rows_and_layout,
    metrics=METRICS,
    headline=headline,
    cost=cost,
    amount=amount,
    units=lambda config: config.loop.steps,
)
