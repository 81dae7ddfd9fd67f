"""Exports the finished models into one folder that other programs load, and registers them."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.learning import Learned, Serving
from orchestrator.stage import ModelVersion, Slot, StageContext, StageKind


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    name: str  # of the registered model
    alias: str = "champion"  # moved to this version in the registry

    def __post_init__(self) -> None:
        ModelVersion(name=self.name, alias=self.alias)


def run(config: ExportConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.inference.export import export_models

    slots = ("tokenizer", "mllm", "decoder", "report")
    folders = {slot: found[0].path for slot in slots if (found := context.inputs(slot))}
    return export_models(folders, context.output)


EXPORT = StageKind(
    name="export",
    version=2,
    config=ExportConfig,
    run=run,
    inputs={
        "tokenizer": Slot(kind="tokenizer@1"),
        "mllm": Slot(kind="mllm@1"),
        "decoder": Slot(kind="decoder@1", required=False),
        "report": Slot(kind="report@1", required=False),
    },
    output="export@1",
    metrics={"parameters": "parameters of the exported models"},
    learned=Learned(from_samples=False),
    serving=Serving(models={"tokenizer": "tokenizer", "mllm": "mllm", "decoder": "decoder"}),
    model_version=lambda config: ModelVersion(name=config.name, alias=config.alias),
)
