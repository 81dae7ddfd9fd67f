"""Evaluates the finished models on samples that they were not trained on, and makes a contact sheet of the results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.inference.settings import InferenceSettings
from models.mllm.config import SamplingConfig
from orchestrator.identity import semantic_config
from orchestrator.learning import Serving
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import NodeInputs, Slot, StageContext, StageKind
from stages.node_data import DATASETS, open_inputs

USUAL_SAMPLES = 2000  # conversations of a dataset from which the most common answers are taken
NOT_READ = ("samples", "train_split")  # fields that do not decide a single sample's result


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Number of samples of each task; 0 leaves it out."""

    reconstruction: int
    generation: int
    understanding: int
    editing: int
    enlargement: int


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    samples: SampleCounts
    understanding: SamplingConfig
    generation: SamplingConfig
    editing: SamplingConfig
    seed: int
    split: str = "val"
    train_split: str = "train"  # from which the most common answers are taken, as a baseline
    samples_per_shard: int = 32
    diffusion_steps: int = 20
    diffusion_guidance: float = 1.5


@dataclass(frozen=True, kw_only=True)
class EvaluateWorker:
    """Holds all models of the run, once in each worker process."""

    config: EvaluateConfig
    tokenizer: Path
    mllm: Path
    decoder: Path | None
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import torch

        from data_pipelines.datasets.reader import CuratedDataset
        from data_pipelines.evaluation.evaluate import EvaluationSettings, evaluate, find_samples
        from data_pipelines.inference.illume_plus import IllumePlus

        open_inputs(self.inputs)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = IllumePlus.load(self.tokenizer, self.mllm, self.decoder, device=device)
        config = self.config
        settings = EvaluationSettings(
            understanding=config.understanding,
            generation=config.generation,
            editing=config.editing,
            diffusion_steps=config.diffusion_steps,
            diffusion_guidance=config.diffusion_guidance,
            seed=config.seed,
        )

        def run(shard: ShardInput) -> ShardOutcome:
            dataset = CuratedDataset(Path(str(shard.work["dataset"])))
            samples = find_samples(dataset, [str(item) for item in shard.items], split=config.split)
            results = evaluate(model, shard.work["task"], samples, settings, shard.output)  # type: ignore[arg-type]  # JSON
            return ShardOutcome(rows=len(results))

        return run


def run(config: EvaluateConfig, context: StageContext) -> Mapping[str, float]:
    import json

    from data_pipelines.evaluation.report import report_json, report_text
    from data_pipelines.evaluation.results import read_results
    from data_pipelines.evaluation.sheet import results_sheet
    from data_pipelines.evaluation.summary import summarize

    open_inputs(context.node_inputs)
    models = {name: context.input(name) for name in ("tokenizer", "mllm")}
    decoders = context.inputs("decoder")
    worker = EvaluateWorker(
        config=config,
        tokenizer=models["tokenizer"].path,
        mllm=models["mllm"].path,
        decoder=decoders[0].path if decoders else None,
        inputs=context.node_inputs,
    )
    records = context.map_shards(
        worker,
        _shards(config, context, with_decoder=bool(decoders)),
        label="evaluate",
        identity={"inputs": [artifact.fingerprint for artifact in (*models.values(), *decoders)]},
        unit="samples",
    )
    results = []
    for record in records:
        results += read_results(record.path)
        context.adopt(record, {entry.path: f"samples/{record.shard}/{entry.path}" for entry in record.files})
    metrics = summarize(results, _usual_answers(config, context))
    (context.output / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    (context.output / "report.json").write_text(json.dumps(report_json(results, metrics), indent=1) + "\n")
    (context.output / "report.md").write_text(report_text(results, metrics), encoding="utf-8")
    results_sheet(results, metrics).save(context.output / "contact_sheet.png")
    return metrics


def _usual_answers(config: EvaluateConfig, context: StageContext) -> Mapping[str, str]:
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.evaluation.evaluate import most_frequent_answers

    usual: dict[str, str] = {}
    for artifact in context.inputs("datasets"):
        dataset = CuratedDataset(artifact.path)
        usual = most_frequent_answers(dataset, split=config.train_split, count=USUAL_SAMPLES) | usual
    return usual


def _shards(config: EvaluateConfig, context: StageContext, *, with_decoder: bool) -> list[Shard]:
    """Samples spread evenly over the samples of each task in the split, in shards of equal size."""
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.evaluation.evaluate import SAMPLES_OF, choose_samples
    from data_pipelines.evaluation.results import TASKS

    shards = []
    for task in TASKS:
        count = getattr(config.samples, task)  # the fields are the tasks
        if task == "enlargement" and not with_decoder:
            continue
        for number, artifact in enumerate(context.inputs("datasets")):
            chosen = choose_samples(
                CuratedDataset(artifact.path), split=config.split, task=SAMPLES_OF[task], count=count
            )
            for first in range(0, len(chosen), config.samples_per_shard):
                items = tuple(chosen[first : first + config.samples_per_shard])
                shards.append(
                    Shard(
                        name=f"{task}-{number}-{first // config.samples_per_shard:05d}",
                        items=items,
                        identity={
                            "task": task,
                            "dataset": artifact.fingerprint,
                            "settings": semantic_config(config, without=NOT_READ),
                        },
                        work={"task": task, "dataset": str(artifact.path)},
                    )
                )
    return shards


METRICS = {
    "<task>/objects_right": "share of the expected objects found with shape and colour",
    "<task>/colours_right": "share of the expected colours found",
    "<task>/exact": "share of samples with exactly the expected objects",
    "<task>/answers_right": "share of questions answered as in the data",
    "<task>/unchanged": "share of the objects that an edit leaves alone found as and where they were",
    "<task>/psnr_db": "peak signal-to-noise ratio against the target, dB",
    "<task>/ssim": "structural similarity to the target, -1 to 1",
    "<task>/<score>/low": "lower end of the 95 % interval of a score",
    "<task>/<score>/high": "upper end of the 95 % interval of a score",
    "<task>/<score>/chance": "the same score against the truth of another sample",
    "<task>/<score>/baseline": "the same of an unchanged source, the most common answer, the tokenizer enlarged",
    "<task>/<score>/samples": "samples that have the score, if not all of the task",
    "<task>/samples": "samples of the task",
    "<task>/objects": "expected objects in the samples of the task",
    "<task>/answers": "questions of the task",
}
RENAMED_METRICS = {
    "editing/exact_if_copied": "editing/exact/baseline",
    "understanding/answers_right/blind": "understanding/answers_right/baseline",
}
HEADLINE_SCORES = ("generation/objects_right", "understanding/answers_right", "editing/objects_right")


def headline(metrics: Mapping[str, float]) -> str:
    """`generation objects right 56 % (chance 8 %), understanding answers right 67 % (chance 44 %)`."""
    names = [name for name in HEADLINE_SCORES if name in metrics]
    names = names or [name for name in metrics if name.endswith("/objects_right")][:1]
    return ", ".join(_score_text(name, metrics) for name in names)


def _score_text(name: str, metrics: Mapping[str, float]) -> str:
    chance = metrics.get(f"{name}/chance", metrics.get(f"{name}/baseline"))
    compared = f" (chance {100 * chance:.0f} %)" if chance is not None else ""
    return f"{name.replace('/', ' ').replace('_', ' ')} {100 * metrics[name]:.0f} %{compared}"


def warnings(metrics: Mapping[str, float]) -> list[str]:
    from data_pipelines.evaluation import report

    return report.warnings(metrics)


def inference_settings(config: EvaluateConfig) -> InferenceSettings:
    return InferenceSettings(
        understanding=config.understanding,
        generation=config.generation,
        editing=config.editing,
        diffusion_steps=config.diffusion_steps,
        diffusion_guidance=config.diffusion_guidance,
    )


EVALUATE = StageKind(
    name="evaluate",
    version=3,
    config=EvaluateConfig,
    run=run,
    inputs={
        "datasets": DATASETS,
        "tokenizer": Slot(kind="tokenizer@1"),
        "mllm": Slot(kind="mllm@1"),
        "decoder": Slot(kind="decoder@1", required=False),
    },
    output="report@1",
    metrics=METRICS,
    renamed_metrics=RENAMED_METRICS,
    headline=headline,
    warnings=warnings,
    serving=Serving(
        models={"tokenizer": "tokenizer", "mllm": "mllm", "decoder": "decoder"}, settings=inference_settings
    ),
)
